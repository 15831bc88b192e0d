"""Bilevel problems with known answers: an upper loss of x and y, where y is the minimum of a quadratic lower loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from hvdclip.settings.numbers import FiniteNumber

from .base import NotNegative, Problem


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Bilevel(Problem):
    """f_i(x, y) above g_i(x, y) = y'A_i y/2 - y'(B x + b_i); exact gradients.

    A_i = [[2, 1], [1, 3]] + stretch o_i diag(1, -1), B = [[1, 2], [0, 1]] and b_i = spread o_i (1, -2) with the offset
    o_i = i - (N-1)/2; f_i has a c_i = (1, -1) + spread o_i (1, 1). `lower` says whether all ranks share the y that
    minimises the mean of g_i, or each has its own. As a problem of x alone, for other algorithms, it is f_i at that y.
    """

    lower_start = torch.zeros(2, dtype=torch.float64)  # y_0

    def __init__(
        self,
        ranks: int,
        lower: Literal["shared", "own"] = "shared",
        spread: FiniteNumber = 0.0,
        stretch: FiniteNumber = 0.0,
    ):
        super().__init__(ranks)
        self.form, self.spread = lower, spread
        self.offsets = torch.arange(ranks, dtype=torch.float64) - (ranks - 1) / 2
        across = stretch * self.offsets[:, None, None] * torch.diag(_numbers(1, -1))
        self._a = torch.stack([_numbers(2, 1), _numbers(1, 3)]) + across
        self._b = torch.stack([_numbers(1, 2), _numbers(0, 1)])
        self._shifts = spread * self.offsets[:, None] * _numbers(1, -2)
        self._c = _numbers(1, -1) + spread * self.offsets[:, None] * _numbers(1, 1)
        if not bool((torch.linalg.eigvalsh(self._a) > 0).all()):
            raise ValueError(
                f"stretch is {stretch} on {ranks} ranks; allowed: values for which every lower loss is convex"
            )

    @abstractmethod
    def upper_losses(self, x: Tensor, y: Tensor, ranks: slice) -> Tensor:
        """f_i(x_i, y_i) of the ranks named, (..., n)."""

    def upper_loss(self, x: Tensor, y: Tensor, rank: int) -> Tensor:
        """f_i(x, y), a number."""
        return self.upper_losses(x[None], y[None], slice(rank, rank + 1))[0]

    def lower_loss(self, x: Tensor, y: Tensor, rank: int) -> Tensor:
        """g_i(x, y), a number."""
        return y @ self._a[rank] @ y / 2 - y @ (self._b @ x + self._shifts[rank])

    def lower_minimum(self, x: Tensor, ranks: slice) -> Tensor:
        """y*(x_i), or y_i*(x_i) if each rank has its own, (..., n, 2)."""
        a, shifts = self._a[ranks], self._shifts[ranks]
        if self.form == "shared":
            a, shifts = self._a.mean(dim=0).expand_as(a), self._shifts.mean(dim=0).expand_as(shifts)
        return torch.linalg.solve(a, (x @ self._b.T + shifts)[..., None])[..., 0]

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        return self.upper_losses(x, self.lower_minimum(x, ranks), ranks)

    def value(self, x: Tensor) -> Tensor:
        of_all = x[..., None, :].expand(*x.shape[:-1], self.ranks, -1)
        return self.losses(of_all, slice(None), None).mean(dim=-1)


class Quadratic(Bilevel):
    """f_i = |y - c_i|^2/2 + mu/2 |x|^2 from x = (2, -1)."""

    start = _numbers(2, -1)

    def __init__(
        self,
        ranks: int,
        lower: Literal["shared", "own"] = "shared",
        spread: FiniteNumber = 0.0,
        stretch: FiniteNumber = 0.0,
        mu: NotNegative = 0.1,
    ):
        super().__init__(ranks, lower, spread, stretch)
        self.mu = mu

    def upper_losses(self, x: Tensor, y: Tensor, ranks: slice) -> Tensor:
        return ((y - self._c[ranks]) ** 2).sum(dim=-1) / 2 + self.mu / 2 * (x**2).sum(dim=-1)


class Cosh(Bilevel):
    """f_i = sum_k cosh(x_k - p_ik) + sum_k sqrt(1 + (y_k - c_ik)^2) from x = (8, -6), whose gradient has no Lipschitz
    constant; p_i = shift o_i (1, -1).
    """

    start = _numbers(8, -6)

    def __init__(
        self,
        ranks: int,
        lower: Literal["shared", "own"] = "shared",
        spread: FiniteNumber = 0.0,
        stretch: FiniteNumber = 0.0,
        shift: FiniteNumber = 0.0,
    ):
        super().__init__(ranks, lower, spread, stretch)
        self._p = shift * self.offsets[:, None] * _numbers(1, -1)

    def upper_losses(self, x: Tensor, y: Tensor, ranks: slice) -> Tensor:
        above = torch.cosh(x - self._p[ranks]).sum(dim=-1)
        return above + torch.sqrt(1 + (y - self._c[ranks]) ** 2).sum(dim=-1)
