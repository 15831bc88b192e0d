"""Noisy quadratics, equal or different on the ranks: the simplest problem that shows linear speed-up."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .base import Count, NotNegative, Problem


class Quadratics(Problem):
    """f_i = 1/2 sum_k a_k (x_k - b_ik)^2 from x = 1, a_k from 1 to 1/condition in equal ratios.

    b_i has mean 0 over the ranks and deviation `spread`; the gradient's noise is Gaussian of deviation `noise`.
    """

    def __init__(
        self,
        ranks: int,
        dimension: Count = 10,
        condition: Annotated[float, Field(ge=1)] = 10.0,
        noise: NotNegative = 1.0,
        spread: NotNegative = 0.0,
    ):
        super().__init__(ranks)
        self.noise, self.dimension = noise, dimension
        self.start = torch.ones(dimension, dtype=torch.float64)
        self._a = torch.logspace(0, -1, dimension, base=condition, dtype=torch.float64)
        b = spread * np.random.default_rng(ranks).standard_normal((ranks, dimension))
        self._b = torch.from_numpy(b - b.mean(axis=0))
        self.minimum = self.value(torch.zeros(dimension, dtype=torch.float64)).item()

    @property
    def width(self) -> int:
        return self.dimension if self.noise else 0

    def random(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.noise * generator.standard_normal(shape)

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        f = 0.5 * (self._a * (x - self._b[ranks]) ** 2).sum(dim=-1)
        return f if draws is None else f + (draws * x).sum(dim=-1)

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * (self._a * (x[..., None, :] - self._b) ** 2).sum(dim=-1).mean(dim=-1)
