"""Phase retrieval, on which IAN-SGD is compared with SGD, clipped and normalised SGD.

Yang, Tripp, Sun, Zou, Zhou, Independently-Normalized SGD, 2024, section 5.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .base import Count, Problem

MEASUREMENTS, DIMENSION = 3000, 100


class PhaseRetrieval(Problem):
    """f(z) = mean over 3000 samples of (y - (a.z)^2)^2 / 2, d = 100; all ranks draw from all samples.

    As in the authors' code a step follows half the gradient of f, and starts at z_1 = z_0 - .1 g/||g||^(2/3). Every
    second batch, whose gradient's norm two-gradient methods use, has `second_batch` samples, or is the `same` batch
    again.
    """

    def __init__(self, ranks: int, batch: Count = 64, second_batch: Count | Literal["same"] | None = None):
        super().__init__(ranks)
        if isinstance(second_batch, int) and second_batch > batch:
            raise ValueError(f"data.second_batch is {second_batch}; allowed: same, or up to data.batch, {batch}")
        self.batch, self.second = batch, second_batch
        legacy = np.random.RandomState(2024)
        hidden = legacy.normal(0, np.sqrt(0.5), DIMENSION)
        a = legacy.normal(0, np.sqrt(0.5), (MEASUREMENTS, DIMENSION))
        noise = legacy.normal(0, 4, MEASUREMENTS)
        z_0 = torch.from_numpy(legacy.normal(0, np.sqrt(6), DIMENSION) + 1)
        self._a, self._y = torch.from_numpy(a), torch.from_numpy((a @ hidden) ** 2 + noise)
        g = self._half_gradient(z_0)
        self.z_0, self.start = z_0, z_0 - 0.1 * g / g.norm() ** (2 / 3)

    @property
    def width(self) -> int:
        return self.batch

    def draws(self, seed: int, batch: int) -> Tensor | None:
        if self.second == "same":
            return super().draws(seed, batch // 2)
        drawn = super().draws(seed, batch)
        assert drawn is not None
        return drawn[:, : self.second] if batch % 2 and self.second else drawn

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        assert draws is not None
        chosen = (draws * MEASUREMENTS).long()
        residuals = self._y[chosen] - torch.einsum("...nbd,...nd->...nb", self._a[chosen], x) ** 2
        return (residuals**2).mean(dim=-1) / 4

    def value(self, x: Tensor) -> Tensor:
        return ((self._y - (x @ self._a.T) ** 2) ** 2).mean(dim=-1) / 2

    def _half_gradient(self, z: Tensor) -> Tensor:
        products = self._a @ z
        return -((self._y - products**2) * products) @ self._a / MEASUREMENTS
