"""What methods with an SGD step share: weight decay and momentum, or a torch optimizer inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvdclip.flat import Vector
from hvdclip.methods.agreement import kind
from hvdclip.methods.sgd import sgd_direction
from hvdclip.methods.steps import Steps
from hvdclip.numbers import Number

# torch's optimizers that treat each entry by itself
ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop")


@dataclass(frozen=True)
class Direction:
    """Where the step goes. With `norm_of: gradient` still the raw gradient: weight decay and momentum join in the
    same pass over memory that moves x. With `norm_of: update` they are in it already."""

    vector: Vector
    decayed: bool


class SgdFamily(Steps):
    """x_k -= lr_k * factor * d for each parameter group k, with d = g + weight decay and momentum, or by `inner`."""

    def __init__(self, model_or_params: Any, settings: Any, comm: Any):
        super().__init__(model_or_params, settings, comm)
        self._fresh = True  # the next step is the first for the momentum: buf = d, without dampening
        self.inner = None if settings.inner is None else self._build_inner(settings.inner)

    @property
    def host_skips(self) -> bool:
        # the fused step masks x and its momentum, but not what happens outside of it
        return self.inner is not None or getattr(self.settings, "norm_of", "gradient") == "update"

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return (settings.inner is None or kind(settings.inner) in ELEMENTWISE) and super().vectorises(settings)

    def keeps(self) -> tuple[str, ...]:
        return ("momentum",) if self.settings.momentum else ()

    def travels(self) -> tuple[str, ...]:
        return ("momentum",) if getattr(self.settings, "momentum_policy", "keep") == "average" else ()

    def alike(self) -> tuple[str, ...]:
        # a gradient method's momentum is that of the mean gradient
        return ("momentum",) if getattr(self.settings, "momentum_policy", "average") != "keep" else ()

    def direction(self, g: Vector) -> Direction:
        """d = g + wd*x, then momentum."""
        if getattr(self.settings, "norm_of", "gradient") == "gradient":
            return Direction(g, decayed=False)
        x, momentum = self.x.parts, self._momentum()
        buffers = [] if momentum is None else momentum.parts
        parts: list[Tensor] = []
        for group, span in self.spans():
            rule = (group["weight_decay"], *self._momentum_rule())
            parts += sgd_direction(x[span], g.parts[span], buffers[span], *rule)
        self._momentum_has_moved()
        d = g.like(parts)
        d.common = g.common
        return Direction(d, decayed=True)

    def descend(self, d: Direction, factor: Number = 1.0) -> None:
        """x_k -= lr_k * factor * d, or the inner optimizer's step from factor * d."""
        if self.inner is not None:
            self._inner_step(d.vector, factor)
        elif d.decayed:
            self.move(d.vector, factor, weight_decay=False)
        else:
            self.move(d.vector, factor, momentum=self._momentum(), rule=self._momentum_rule())
            self._momentum_has_moved()

    def after_average(self) -> None:
        if getattr(self.settings, "momentum_policy", "keep") == "reset":
            self.vectors["momentum"].zero_()
            self._fresh = True

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["hvdclip"]["fresh"] = self._fresh
        if self.inner is not None:
            state["inner"] = self.inner.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._fresh = state_dict["hvdclip"]["fresh"]
        if self.inner is not None:
            self.inner.load_state_dict(state_dict["inner"])
            self.param_groups = self.inner.param_groups

    def _begun_anew(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        state = super()._begun_anew(state_dict)
        state["hvdclip"]["fresh"] = True
        if self.inner is not None:
            state["inner"] = state["inner"] | {"state": {}}
        return state

    def _momentum(self) -> Vector | None:
        return self.vectors.get("momentum")

    def _momentum_rule(self) -> tuple[float, float, bool]:
        return self.settings.momentum, 0.0 if self._fresh else self.settings.dampening, self.settings.nesterov

    def _momentum_has_moved(self) -> None:
        # "fresh" matters with dampening only; then the host looks at the flag, once
        if self._fresh and self.settings.momentum:
            self._fresh = bool(self.settings.dampening and self._skip)

    def _group_defaults(self, settings: Any) -> dict[str, Any]:
        defaults = super()._group_defaults(settings)
        if settings.inner is not None and "weight_decay" not in settings.model_fields_set:
            del defaults["weight_decay"]  # the inner optimizer's own default holds
        return defaults

    def _build_inner(self, inner: Any) -> torch.optim.Optimizer:
        if isinstance(inner, torch.optim.Optimizer):
            if self.settings.weight_decay_on != "all":
                given = self.settings.weight_decay_on
                raise ValueError(
                    f"weight_decay_on is {given!r}; allowed with an instance as inner: all, since its own groups hold"
                )
        else:
            inner = inner([dict(group) for group in self.param_groups], lr=self.settings.lr)
        ours = {id(p) for p in self.space.parameters}
        if {id(p) for group in inner.param_groups for p in group["params"] if p.requires_grad} != ours:
            raise ValueError("inner is an optimizer over other parameters than those given to hvdclip.optimizer")
        if isinstance(inner, torch.optim.LBFGS):
            raise ValueError("inner is LBFGS, which needs several gradients a step; allowed are optimizers of one")
        if inner.param_groups[0]["lr"] != self.param_groups[0]["lr"]:
            raise ValueError(
                f"inner's lr is {inner.param_groups[0]['lr']}, lr is {self.param_groups[0]['lr']}; they must be equal"
            )
        if "weight_decay" in self.settings.model_fields_set and "weight_decay" not in inner.defaults:
            raise ValueError(f"weight_decay was given, but inner, {type(inner).__name__}, has none")
        # one list of groups: what a learning-rate scheduler writes into ours is what the inner optimizer reads
        self.param_groups = inner.param_groups
        self._first_lr = self.param_groups[0]["lr"]
        return inner

    def _inner_step(self, v: Vector, factor: Number) -> None:
        assert self.inner is not None
        for p, part in zip(self.space.parameters, v.parts, strict=True):
            p.grad = part
        if isinstance(factor, Tensor) or factor != 1:
            v.mul_(factor)
        with self._scaled_lr():
            self.inner.step()

    @contextmanager
    def _scaled_lr(self) -> Iterator[None]:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= self.step_scale
        try:
            yield
        finally:
            for group, lr in zip(self.param_groups, rates, strict=True):
                group["lr"] = lr
