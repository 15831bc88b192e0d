"""Images that are drawn, for benchmarks: a model trains on them as fast as it can."""

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
    """More labels than features: the features repeat."""

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        return super().rows(chosen % len(self.features))


def synthetic(
    samples: Count = 10_000, channels: Count = 3, side: Count = 224, classes: Classes = 1000, test_samples: Count = 1000
) -> dict[str, Labelled]:
    """Normal noise in the shape (channels, side, side), the same on all ranks; label k % classes for sample k.

    No more than 256 different images, which repeat: all that can be learnt is to know them by heart.
    """
    return {
        "train": _drawn(samples, channels, side, classes, 1),
        "test": _drawn(test_samples, channels, side, classes, 2),
    }


@cache  # simulated ranks share one copy
def _drawn(samples: int, channels: int, side: int, classes: int, seed: int) -> Repeated:
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(min(samples, POOL), channels, side, side, generator=generator)
    return Repeated(pool, torch.arange(samples) % classes)
