"""Bilevel methods: local steps of upper parameters x, whose loss depends on y, the solution of a lower problem.

minimise over x the mean of f_i(x, y*(x)), with y*(x) the minimum of mean g_i(x, .) (`lower: shared`), or on each rank
y_i*(x) that of its g_i(x, .) (`lower: own`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.descent import Descent
from hvdclip.engine.estimators import Estimate, Linear, Neumann
from hvdclip.engine.groups import LOWER, ROLE, UPPER
from hvdclip.engine.local import LocalMethod
from hvdclip.engine.mean import Mean
from hvdclip.engine.second_order import Levels, Loss, Point
from hvdclip.engine.sharing import OWN, TRAVELS, Sharing
from hvdclip.engine.skip import StepLeftOut
from hvdclip.flat import Gradient, Space, Vector
from hvdclip.flat.scalars import on_host
from hvdclip.messages import Rider


class OfRole(Descent):
    """The moves of one level, over its own parameter groups."""

    def __init__(self, vector: Vector, method: Bilevel, role: str):
        self.method, self.role = method, role
        super().__init__(vector, [], method.skip)

    @property
    def groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The method's current groups: a state that is loaded replaces them."""
        return self.method.groups_of(self.role)

    @groups.setter
    def groups(self, groups: list[dict[str, Any]]) -> None: ...


class Bilevel(LocalMethod):
    """A method's file defines `bilevel_step(levels)` with `step_below`, `estimate` and `step_above`.

    The first `warm_start` steps move y only. The space of x is that of the upper parameters. y, and what `keeps_below`
    names, have their own space, and travel with x in one message if the lower problem is shared.
    """

    descent_below: Descent
    estimator: Linear | Neumann
    _loss: Tensor | None  # the upper loss of the current step

    # What an algorithm's file defines

    def keeps_below(self) -> Mapping[str, Sharing]:
        """The vectors of state in the space of y, besides y and z."""
        return {}

    def bilevel_step(self, levels: Levels) -> None:
        """Move this rank's x and y by its own two losses."""
        raise NotImplementedError

    def warm_up(self, levels: Levels) -> None:
        """Move y only."""
        self.step_below(levels.gradient_below())

    @property
    def warm_start(self) -> int:
        """The number of steps at the start that move y only."""
        return int(self.settings.warm_start)

    # What the algorithm's file uses

    @property
    def k(self) -> int:
        """The number of the current step, counted from 0 after the warm start."""
        return self.steps - 1 - self.warm_start

    @property
    def y(self) -> Vector:
        """The lower parameters."""
        return self.vectors["y"]

    @property
    def below(self) -> Sharing:
        """How the ranks' y relate at the end of a round."""
        return TRAVELS if self.settings.lower == "shared" else OWN

    @property
    def of_momentum(self) -> Sharing:
        """How the ranks' m relate."""
        return TRAVELS if self.settings.momentum_policy == "average" else OWN

    def estimate(self, point: Point) -> Estimate:
        """The estimate of the hyper-gradient at this point."""
        return self.estimator(point)

    def settle(self, estimate: Estimate) -> None:
        """With estimator `linear` z -= nu (H z - Fy)."""
        self.estimator.settle(estimate)

    def step_below(self, gy: Vector) -> None:
        """y -= alpha Gy."""
        self.descent_below.move(gy, weight_decay=False)

    def step_above(self, h: Vector) -> None:
        """m = beta m + (1 - beta) h; then x moves along m by the upper step."""
        self.move_above(self.vectors["m"].lerp_(h, 1 - self.settings.beta))

    def move_above(self, m: Vector) -> None:
        """The upper step; weight decay is added after the norm is taken."""
        self.statistics.add_norm(on_host(m.norm()))
        if self.settings.upper_step == "normalized":
            self.move_normalized(m)
        elif self.settings.upper_step == "clipped":
            self.move(self.clip(m) * m)  # x -= min(eta, gamma/||m||) * m
        else:
            self.move(m)

    def below_scaled(self, step: float | None) -> float:
        """A step size in y's space, which keeps its ratio to alpha; alpha itself if it is not set."""
        factor: float = self.groups_of(LOWER)[0]["lr"] / self.numbers["first_lower_lr"]
        return (self.settings.lower_lr if step is None else step) * factor

    def groups_of(self, role: str) -> list[dict[str, Any]]:
        """The parameter groups of a level."""
        return [group for group in self.param_groups if group[ROLE] == role]

    # What a user calls

    @torch.no_grad()
    def step(self, upper: Loss | None = None, lower: Loss | None = None) -> Tensor | None:  # type: ignore[override]
        """One step from two losses; returns the upper one, None in the warm start.

        Each callable is called for every batch that the step needs, draws a fresh one, and returns a number with a
        graph, without backward(). `.grad` is neither read nor written. accbo calls both with again=True for the last
        batch.
        """
        if not (callable(upper) and callable(lower)) or getattr(self, "grad_scale", None) is not None:
            raise TypeError(
                f"{self.name} computes gradients of two losses itself: call step(upper, lower) with two callables that "
                "return the loss of a fresh batch, without backward() and without GradScaler"
            )
        self._unfreeze()
        self._begin_step()
        self.levels.upper_loss, self.levels.lower_loss, self._loss = upper, lower, None
        self.take(self.levels)  # type: ignore[arg-type]
        self.kept.put_back(self.skip.flag)
        self._end_step()
        return self._loss

    @property
    def last_round(self) -> dict[str, Any]:
        """As for every method; `loss` is the upper loss, `lower_loss` the other one."""
        found = super().last_round
        return found | {"lower_loss": self.lower_loss.agreed} if found else found

    # Inside

    def take_step(self, levels: Any) -> None:
        self.statistics.add("steps", 1)
        self.skip.decide(False)
        self.gradients.common = False
        for space in self.spaces:
            space.check_bound()
        changed = [self.x, *(self.vectors[name] for name in self.table)]
        with suppress(StepLeftOut), self.skip.put_back([[flat] for vector in changed for flat in vector.flats]):
            if self.k < 0:
                self.warm_up(levels)
            else:
                self.bilevel_step(levels)

    @property
    def needs_closure(self) -> bool:
        return True

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    @property
    def bound(self) -> Sequence[Vector]:
        return [self.x, self.y]

    @property
    def met(self) -> Sequence[Vector]:
        return self.bound if self.below is TRAVELS else [self.x]

    def space_of(self, name: str) -> Space:
        return self.spaces[name in self._below]

    def further_riders(self) -> Sequence[Rider]:
        return [self.lower_loss]

    def _spaces(self) -> list[Space]:
        self.lower_loss = Mean("lower_loss")
        linear = {"z": self.below} if self.settings.estimator == "linear" else {}
        self._below = {"y": self.below} | linear | dict(self.keeps_below())
        return [
            self.types.space([p for group in self.groups_of(role) for p in group["params"]]) for role in (UPPER, LOWER)
        ]

    def _table(self) -> dict[str, Sharing]:
        return super()._table() | self._below

    def _descent(self) -> Descent:
        self.numbers["first_lower_lr"] = self.groups_of(LOWER)[0]["lr"]
        self.parts.append(self.lower_loss)
        self.descent_below = OfRole(self.y, self, LOWER)
        self.estimator = Linear(self) if self.settings.estimator == "linear" else Neumann(self)
        self.levels = Levels(self.spaces, self.y, self.settings.lower_l2, self._look, self._record)
        self._warn_of_powers()
        return OfRole(self.x, self, UPPER)

    def _warn_of_powers(self) -> None:
        if self.settings.estimator == "neumann" and self.below is TRAVELS and self.comm.size > 1:
            warnings.warn(
                "estimator neumann with lower shared converges to another point if the ranks' data differ: a mean of "
                "powers is not the power of the mean; use estimator linear, or lower own",
                stacklevel=7,
            )

    def _look(self, gradient: Gradient) -> Gradient:
        """Leave the step out if autograd's result is not finite; at once if the host knows."""
        self.gradients.look_at(on_host(gradient.norm()))
        self.skip.check_on_host()
        return gradient

    def _record(self, level: str, loss: Tensor) -> None:
        if level == UPPER:
            self._loss = loss
            self.gradients.record(loss, 0)
        else:
            number = on_host(loss.reshape(()))
            self.lower_loss.add(number)
            self.gradients.note_loss(number)
