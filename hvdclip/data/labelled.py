"""Samples, each with a label."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self


class Samples(Protocol):
    """Samples of one shape, read by their numbers; labels (m,), int64, are 0 to classes - 1."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def classes(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def place(self) -> torch.device:
        """The device on which their rows are made."""

    @property
    def checksum(self) -> str:
        """Ranks compare it to see that they read the same samples."""

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        """These samples, (len(chosen), *shape), floating; with a seed as they are drawn in training."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples as one tensor of features (m, *shape)."""

    features: Tensor
    labels: Tensor

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        return self.features[chosen.to(self.place, non_blocking=True)]

    def to(self, device: torch.device) -> Self:
        """The same samples, kept in the memory of that device."""
        return replace(self, features=self.features.to(device))

    @property
    def place(self) -> torch.device:
        return self.features.device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.features.shape[1:])

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all features and labels."""
        digest = hashlib.sha256()
        for part in (self.features, self.labels):
            digest.update(f"\n{tuple(part.shape)}\n".encode())
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()
