"""The step of the SGD family: weight decay and momentum, in the same pass over memory that moves x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hvdclip.engine.descent import NO_MOMENTUM, Descent, MomentumRule
from hvdclip.engine.sgd_kernel import sgd_direction
from hvdclip.flat import Scalar, Vector
from hvdclip.settings import SgdSettings


@dataclass(frozen=True)
class Direction:
    """The direction of the step. With `norm_of: gradient` still the raw gradient: weight decay and momentum are added
    in the pass over memory that moves x. With `norm_of: update` it contains them already."""

    vector: Vector
    decayed: bool


class FusedSgd:
    """x_k -= lr_k * factor * d for each parameter group k, with d = g + weight decay and momentum."""

    def __init__(self, descent: Descent, settings: SgdSettings, momentum: Vector | None):
        self.descent, self.settings, self.momentum = descent, settings, momentum
        # the fused step masks x and its momentum, but nothing outside of it
        self.changes = ("momentum",) if settings.clips_update and momentum is not None else ()
        self._fused = not settings.clips_update
        # the next step is the momentum's first: buf = d, without dampening; a number if only a device knows
        self._fresh: bool | Tensor = True

    def direction(self, g: Vector) -> Direction:
        """d = g + wd*x, then momentum."""
        if self._fused:
            return Direction(g, decayed=False)
        x, buffers = self.descent.x.parts, [] if self.momentum is None else self.momentum.parts
        parts: list[Tensor] = []
        for group, span in self.descent.spans():
            parts += sgd_direction(x[span], g.parts[span], buffers[span], group["weight_decay"], *self._rule(group))
        self._momentum_has_moved()
        d = g.like(parts)
        d.alike = g.alike
        return Direction(d, decayed=True)

    def descend(self, d: Direction, factor: Scalar = 1.0) -> None:
        """x_k -= lr_k * factor * d."""
        if d.decayed:
            self.descent.move(d.vector, factor, weight_decay=False)
        else:
            self.descent.move(d.vector, factor, momentum=self.momentum, rule=self._rule)
            self._momentum_has_moved()

    def reset(self) -> None:
        """Reset the momentum."""
        if self.momentum is not None:
            self.momentum.zero_()
        self._fresh = True

    def state_dict(self) -> dict[str, Any]:
        return {"fresh": bool(self._fresh)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fresh = state["fresh"]

    def begins_anew(self, fresh: bool) -> None:
        """Whether the next step is the momentum's first; set from outside."""
        self._fresh = fresh

    def _rule(self, group: dict[str, Any]) -> MomentumRule:
        """The group's current rule; a scheduler may have changed it."""
        if self.momentum is None:
            return NO_MOMENTUM
        momentum, dampening, nesterov = group["momentum"], group["dampening"], group["nesterov"]
        if isinstance(self._fresh, Tensor) and dampening == 1:
            self._fresh = bool(self._fresh)  # no factor could make d from zero
        if not isinstance(self._fresh, Tensor):
            return momentum, 0.0 if self._fresh else dampening, nesterov, 1.0
        # buf was zero in the first step, so that it has (1-dampening)*d
        return momentum, dampening, nesterov, 1 + dampening / (1 - dampening) * self._fresh.double()

    def _momentum_has_moved(self) -> None:
        # it matters with dampening only
        if self._fresh is False or self.momentum is None:
            return
        skip = self.descent.skip
        if not any(group["dampening"] for group in self.descent.groups):
            self._fresh = False
        elif skip.on_host:
            self._fresh = bool(skip.flag)
        else:
            self._fresh = skip.flag if self._fresh is True else self._fresh * skip.flag
