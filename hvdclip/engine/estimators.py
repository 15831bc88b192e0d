"""The two estimates of the hyper-gradient h = Fx - J w, where w is near the solution of H w = Fy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hvdclip.engine.second_order import Point
from hvdclip.flat import Vector

if TYPE_CHECKING:
    from hvdclip.engine.bilevel import Bilevel


class Estimate(NamedTuple):
    """h, and for `Linear` the residual H z - Fy of the system that z solves."""

    h: Vector
    residual: Vector | None = None


class Linear:
    """w = z, a vector of state that takes one step on the linear system in each step of x (as in SOBA)."""

    def __init__(self, method: Bilevel):
        self.method = method

    def __call__(self, point: Point) -> Estimate:
        jz, hz = point.products(self.method.vectors["z"])
        return Estimate(point.fx - jz, hz - point.fy)

    def settle(self, estimate: Estimate) -> None:
        """z -= nu (H z - Fy)."""
        assert estimate.residual is not None
        method = self.method
        method.vectors["z"].sub_(method.below_scaled(method.settings.z_lr) * estimate.residual)


class Neumann:
    """w = theta sum_{q<Q} (I - theta H)^q Fy, or Q times one term, the same on all ranks; no state."""

    def __init__(self, method: Bilevel):
        self.method = method

    def __call__(self, point: Point) -> Estimate:
        w = self._drawn(point) if self.method.settings.neumann_terms == "drawn" else self._sum(point)
        return Estimate(point.fx - point.times_j(w))

    def settle(self, estimate: Estimate) -> None:
        """Does nothing: there is no z."""

    def _sum(self, point: Point) -> Vector:
        theta, r = self._theta, point.fy.clone()
        w = r.clone()
        for _ in range(self.method.settings.terms - 1):
            r.sub_(theta * point.times_h(r))
            w.add_(r)
        return theta * w

    def _drawn(self, point: Point) -> Vector:
        theta, terms, r = self._theta, self.method.settings.terms, point.fy.clone()
        for _ in range(np.random.default_rng(self.method.steps).integers(terms)):
            r.sub_(theta * point.times_h(r))
        return theta * terms * r

    @property
    def _theta(self) -> float:
        return self.method.below_scaled(self.method.settings.theta)
