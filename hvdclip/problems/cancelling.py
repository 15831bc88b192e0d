"""Two quadratics whose clipped gradients cancel.

Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik, Clip21, 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Problem


class Cancelling(Problem):
    """f_i = x^2 on even ranks and -x^2/2 on odd ones, from x = 2; exact gradients. ValueError for an odd number."""

    start = torch.tensor([2.0], dtype=torch.float64)
    minimum = 0.0

    def __init__(self, ranks: int):
        super().__init__(ranks)
        if ranks % 2:
            raise ValueError(f"cancelling needs an even number of ranks, but there are {ranks}")
        self._factors = torch.tensor([1.0, -0.5], dtype=torch.float64).repeat(ranks // 2)

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        return self._factors[ranks] * x[..., 0] ** 2

    def value(self, x: Tensor) -> Tensor:
        return 0.25 * x[..., 0] ** 2
