"""The moves of x: steps of lr_k for each parameter group k, over all dtypes, masked if a step is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.sgd_kernel import sgd_step_
from hvdclip.engine.skip import Skip
from hvdclip.flat import Scalar, Vector
from hvdclip.torch_private import foreach_add, foreach_div_

MomentumRule = tuple[float, float, bool, Scalar]
"""(momentum, dampening, nesterov, a factor of what has been dampened)"""
NO_MOMENTUM: MomentumRule = (0.0, 0.0, False, 1.0)


class Descent:
    """x over the parameter groups; `scale` multiplies lr, for example in a step over a batch of another length."""

    def __init__(self, x: Vector, groups: list[dict[str, Any]], skip: Skip):
        self.x, self.groups, self.skip = x, groups, skip
        self.scale = 1.0

    def move(
        self,
        v: Vector,
        factor: Scalar = 1.0,
        *,
        weight_decay: bool = True,
        momentum: Vector | None = None,
        rule: Callable[[dict[str, Any]], MomentumRule] = lambda group: NO_MOMENTUM,
    ) -> None:
        """x_k -= lr_k * factor * (v + wd_k * x); nothing changes if the step is left out.

        With a momentum vector, v + wd_k * x passes through it by the group's rule.
        """
        for k, places in self._moved_together:
            group = self.groups[k]
            sgd_step_(
                [self.x.parts[i] for i in places],
                [v.parts[i] for i in places],
                [] if momentum is None else [momentum.parts[i] for i in places],
                step_size=group["lr"] * self.scale * factor,
                weight_decay=group["weight_decay"] if weight_decay else 0.0,
                rule=rule(group),
                skip=self.skip.flag,
            )

    def shrink(self, factor: float) -> None:
        """x_k /= 1 + wd_k * factor, unless the step is left out; groups with lr 0 do not change."""
        for group, span in self.spans():
            if group["lr"] > 0:
                foreach_div_(self.x.parts[span], 1 + group["weight_decay"] * factor * self.skip.taken)

    def with_weight_decay(self, g: Vector) -> Vector:
        """g + wd_k * x; where wd_k is 0, g's own tensors."""
        parts: list[Tensor] = []
        for group, span in self.spans():
            wd, its_g = group["weight_decay"], g.parts[span]
            parts += foreach_add(its_g, self.x.parts[span], alpha=wd) if wd else its_g
        return g.like(parts)

    def spans(self) -> Iterator[tuple[dict[str, Any], slice]]:
        """Each parameter group with the places of its parameters in a vector's parts."""
        start = 0
        for group in self.groups:
            end = start + len(group["params"])
            if end > start:  # all parameters of a group may be frozen
                yield group, slice(start, end)
            start = end

    @contextmanager
    def scaled_lr(self) -> Iterator[None]:
        """Inside, the groups' lr is the scaled one."""
        rates = [group["lr"] for group in self.groups]
        for group in self.groups:
            group["lr"] *= self.scale
        try:
            yield
        finally:
            for group, lr in zip(self.groups, rates, strict=True):
                group["lr"] = lr

    @cached_property
    def _moved_together(self) -> list[tuple[int, list[int]]]:
        """(parameter group, places in a vector's parts) for the parameters that one call of the step can move."""
        found: dict[tuple[int, torch.dtype], list[int]] = {}
        groups = (k for k, group in enumerate(self.groups) for _ in group["params"])
        for i, k in enumerate(groups):
            found.setdefault((k, self.x.parts[i].dtype), []).append(i)
        # The norm has read the gradients from the first to the last, so the last are still in the cache.
        return [(k, places[::-1]) for (k, _), places in found.items()]


def inverse(norm: Tensor) -> Tensor:
    """1/norm, and 0 at norm 0, so that a normalised step of length 0 does nothing."""
    return torch.where(norm > 0, 1 / norm, 0.0)
