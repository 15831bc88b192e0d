"""MNIST with some labels flipped: from which train samples should a classifier learn, judged by a few clean ones?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hvdclip.settings.numbers import FiniteNumber

from .labelled import Labelled
from .mnist import DEVIATION, MEAN, mnist

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class FlippedLabels:
    """Train samples whose `right` says whose label is the true one, clean validation samples, and a test set.

    Images are float32 (784,), from 0 to 1.
    """

    train: Labelled
    right: Tensor
    validation: Labelled
    test: Labelled

    @property
    def checksum(self) -> float:
        """A number computed from all labels in order."""
        places = torch.arange(1, len(self.train.labels) + 1)
        return float((self.train.labels * places).sum() + self.validation.labels.sum())


def cleaning(
    train: Count = 2000,
    validation: Count = 200,
    flipped: Annotated[FiniteNumber, Field(ge=0, le=1)] = 0.5,
    draw_seed: Annotated[int, Field(ge=0)] = 0,
    root: str | None = None,
) -> FlippedLabels:
    """So many MNIST images, drawn with `draw_seed`, and the test set; a share `flipped` of the train labels is wrong.

    ValueError for more images than there are, and the errors of `mnist`.
    """
    return _drawn(train, validation, flipped, draw_seed, root)


@cache  # simulated ranks share one copy
def _drawn(train: int, validation: int, flipped: float, seed: int, root: str | None) -> FlippedLabels:
    found = mnist(root)
    if train + validation > len(found["train"].labels):
        raise ValueError(
            f"train is {train} and validation {validation}; allowed: together up to {len(found['train'].labels)}"
        )
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(found["train"].labels))[: train + validation]
    images, labels = _pixels(found["train"].features)[chosen], found["train"].labels[chosen].clone()
    bad = np.sort(generator.permutation(train)[: round(flipped * train)])
    right = torch.ones(train, dtype=torch.bool)
    right[bad] = False
    labels[bad] = (labels[bad] + torch.from_numpy(generator.integers(1, 10, len(bad)))) % 10
    return FlippedLabels(
        Labelled(images[:train], labels[:train]),
        right,
        Labelled(images[train:], labels[train:]),
        Labelled(_pixels(found["test"].features), found["test"].labels),
    )


def _pixels(standardised: Tensor) -> Tensor:
    """Grey values from 0 to 1; there are 256."""
    return ((standardised.flatten(1) * DEVIATION + MEAN) * 255).round() / 255
