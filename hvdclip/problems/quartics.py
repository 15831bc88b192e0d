"""EPISODE's synthetic problem: two quartics whose curvature differs by 3 H.

Crawshaw, Bao, Liu, EPISODE, ICLR 2023, section 5.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hvdclip.settings.numbers import FiniteNumber

from .base import NotNegative, Problem


class Quartics(Problem):
    """f_i = x^4 - 3 x^3 + h_i x^2 + x from x = 1, h_i = H on even ranks and -2H on odd ones.

    The gradient's noise is uniform on [-noise, noise]. ValueError for an odd number of ranks.
    """

    start = torch.tensor([1.0], dtype=torch.float64)

    def __init__(self, ranks: int, heterogeneity: FiniteNumber = 1.0, noise: NotNegative = 1.0):
        super().__init__(ranks)
        if ranks % 2:
            raise ValueError(f"quartics needs an even number of ranks, but there are {ranks}")
        self.noise = noise
        self._h = torch.tensor([1.0, -2.0], dtype=torch.float64).repeat(ranks // 2) * heterogeneity
        # the points where f' = 4x^3 - 9x^2 - H x + 1 is zero
        stationary = np.roots([4, -9, -heterogeneity, 1])
        self.minimum = min(self.value(torch.tensor([x.real])).item() for x in stationary if abs(x.imag) < 1e-9)

    @property
    def width(self) -> int:
        return 1 if self.noise else 0

    def random(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-self.noise, self.noise, shape)

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        x = x[..., 0]
        f = x**4 - 3 * x**3 + self._h[ranks] * x**2 + x
        return f if draws is None else f + draws[..., 0] * x

    def value(self, x: Tensor) -> Tensor:
        x = x[..., 0]
        return x**4 - 3 * x**3 + self._h.mean() * x**2 + x
