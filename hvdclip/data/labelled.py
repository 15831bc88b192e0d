"""Samples with a label each, as two tensors."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features (m, d) and labels (m,), int64, which are 0 to classes - 1."""

    features: Tensor
    labels: Tensor

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        """The features of these samples as floating rows; with a seed as they are drawn in training."""
        return self.features[chosen]

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all features and labels, by which ranks can tell that they read the same samples."""
        digest = hashlib.sha256()
        for part in (self.features, self.labels):
            digest.update(f"\n{tuple(part.shape)}\n".encode())
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()
