"""What a problem is: f = mean of f_i over N ranks, with batches drawn from (seed, number of the batch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

# numbers that are drawn at once, because a generator costs more than a few numbers
DRAWN_AT_ONCE = 2**14


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Problem(ABC):
    """Everything in float64; x has the shape (..., n, d) for n ranks, or (..., d) for a point common to all."""

    start: Tensor  # x_0, (d,)
    minimum: float | None = None  # f*, if it is known

    def __init__(self, ranks: int):
        self.ranks = ranks
        self._blocks: dict[int, tuple[int, Tensor]] = {}

    @abstractmethod
    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        """f_i(x_i; batch) of these ranks, (..., n), to be differentiated. `draws` are theirs, (..., n, width)."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """f(x), exact, (...)."""

    @property
    def width(self) -> int:
        """How many random numbers a rank draws for a batch; 0 if gradients are exact."""
        return 0

    def random(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """What is drawn; uniform on [0, 1) unless a problem overrides it."""
        return generator.random(shape)

    def draws(self, seed: int, batch: int) -> Tensor | None:
        """The random numbers of batch 0, 1, 2, ... for all ranks, (ranks, width); None if gradients are exact."""
        if self.width == 0:
            return None
        size = max(1, DRAWN_AT_ONCE // (self.ranks * self.width))
        block, place = divmod(batch, size)
        if self._blocks.get(seed, (-1, None))[0] != block:
            drawn = self.random(np.random.default_rng((seed, block)), (size, self.ranks, self.width))
            self._blocks[seed] = (block, torch.from_numpy(drawn))
        return self._blocks[seed][1][place]

    def gradient_norm(self, x: Tensor) -> Tensor:
        """||grad f(x)||, (...)."""
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.value(x).sum(), x)
        return g.norm(dim=-1)

    def shard_size(self, rank: int) -> int:
        """The number of samples of a rank; 1 if there are none to count."""
        return 1

    def table(self) -> list[list[int]] | None:
        """Counts of each label on each rank, for labelled data."""
        return None
