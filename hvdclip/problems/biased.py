"""Gradients whose clipped mean does not vanish at the minimum: the stochastic bias of clipping.

Koloskova, Hendrikx, Stich, Revisiting Gradient Clipping, ICML 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Problem


class Biased(Problem):
    """f_i = x^2/2 + 2x on rank 0 and x^2/2 - 2x/(N-1) on the others, from x = 1; exact gradients.

    The mean is x^2/2. ValueError for one rank.
    """

    start = torch.tensor([1.0], dtype=torch.float64)
    minimum = 0.0

    def __init__(self, ranks: int):
        super().__init__(ranks)
        if ranks < 2:
            raise ValueError(f"biased needs at least two ranks, but there are {ranks}")
        self._slopes = torch.full((ranks,), -2.0 / (ranks - 1), dtype=torch.float64)
        self._slopes[0] = 2.0

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        return x[..., 0] ** 2 / 2 + self._slopes[ranks] * x[..., 0]

    def value(self, x: Tensor) -> Tensor:
        return x[..., 0] ** 2 / 2
