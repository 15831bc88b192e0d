"""Generated images, for benchmarks: a model trains on them at full speed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from .labelled import Labelled

Count = Annotated[int, Field(ge=1)]
Classes = Annotated[int, Field(ge=2)]
POOL = 256  # images in memory; those of 224 x 224 pixels are 154 MB


@dataclass(frozen=True, eq=False)
class Repeated(Labelled):
    """More samples than features: sample k is image k modulo the number of images."""

    number_of_classes: int

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        return super().rows(chosen % len(self.features))

    @property
    def classes(self) -> int:
        return self.number_of_classes


def synthetic(
    samples: Count = 10_000, channels: Count = 3, side: Count = 224, classes: Classes = 1000, test_samples: Count = 1000
) -> dict[str, Labelled]:
    """Normal noise in the shape (channels, side, side), the same on all ranks.

    There are at most 256 different images, which repeat, and the test samples are the first of them: a model can only
    learn them by heart.
    """
    return {
        name: _drawn(count, channels, side, classes) for name, count in (("train", samples), ("test", test_samples))
    }


@cache  # simulated ranks share one copy
def _drawn(samples: int, channels: int, side: int, classes: int) -> Repeated:
    generator = torch.Generator().manual_seed(1)
    pool = torch.randn(min(samples, POOL), channels, side, side, generator=generator)
    return Repeated(pool, torch.arange(samples) % len(pool) % classes, classes)
