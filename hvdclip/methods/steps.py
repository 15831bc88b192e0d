"""What a step is written with: the clip factor and the move of x, over parameter groups and dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hvdclip.flat import Vector
from hvdclip.methods.base import Method
from hvdclip.methods.sgd import sgd_step_
from hvdclip.numbers import Kind, Number, at_most, on_host


class Steps(Method):
    """Methods that move x_k, the parameters of group k, by steps of lr_k."""

    @property
    def gamma(self) -> float | None:
        if not hasattr(self.settings, "threshold"):
            return None
        eta = self.eta if self.settings.gamma_follows_lr else self.settings.lr
        return self.settings.threshold * eta

    @property
    def threshold(self) -> float:
        """c, the threshold on the norm: gamma/eta now."""
        c = self.settings.threshold
        return c if self.settings.gamma_follows_lr or self.eta == 0 else c * self.settings.lr / self.eta

    def clip(self, v: Vector) -> Number:
        """min(1, c/(1e-10 + ||v||)), for a step no longer than gamma; counted as clipped when it is below 1."""
        return self._capped(self.threshold / (1e-10 + on_host(v.norm())), v.common)

    def clip_message(self, v: Vector, c: float) -> Tensor:
        """The factor of clip(v, c): 1 if ||v|| <= c, else c/||v||, so that the message has norm c exactly."""
        return self._capped(c / v.norm(), v.common)

    def _capped(self, ratio: Kind, common: bool) -> Kind:
        self.statistics.add("clipped", (ratio < 1) * (1 - on_host(self._skip)), common=common)
        return at_most(ratio, 1.0)

    def move(
        self,
        v: Vector,
        factor: Number = 1.0,
        *,
        weight_decay: bool = True,
        momentum: Vector | None = None,
        rule: tuple[float, float, bool] = (0.0, 0.0, False),
    ) -> None:
        """x_k -= lr_k * factor * (v + wd_k * x), leaving all unchanged where this rank's gradient is not finite.

        With a vector of momentum, v + wd_k * x goes through it by the rule (momentum, dampening, nesterov).
        """
        for k, alike in self._alike:
            group = self.param_groups[k]
            sgd_step_(
                [self.x.parts[i] for i in alike],
                [v.parts[i] for i in alike],
                [] if momentum is None else [momentum.parts[i] for i in alike],
                step_size=group["lr"] * self.step_scale * factor,
                weight_decay=group["weight_decay"] if weight_decay else 0.0,
                rule=rule,
                skip=self._skip,
            )

    def move_normalized(self, v: Vector) -> None:
        """x_k -= lr_k * (v/||v|| + wd_k * x); nothing where v is zero."""
        norm = v.norm()
        self.move(inverse(norm) * v, (norm > 0).to(norm.dtype))

    def shrink(self, factor: float) -> None:
        """x_k /= 1 + wd_k * factor: weight decay as a proximal step; groups with lr 0 stay."""
        for group, span in self.spans():
            if group["lr"] > 0:
                torch._foreach_div_(self.x.parts[span], 1 + group["weight_decay"] * factor)

    def with_weight_decay(self, g: Vector) -> Vector:
        """g + wd_k * x."""
        parts: list[Tensor] = []
        for group, span in self.spans():
            parts += torch._foreach_add(g.parts[span], self.x.parts[span], alpha=group["weight_decay"])
        return g.like(parts)

    def spans(self) -> Iterator[tuple[dict[str, Any], slice]]:
        """Each parameter group with the places of its parameters in a vector's parts."""
        start = 0
        for group in self.param_groups:
            end = start + len(group["params"])
            if end > start:  # a group may be all frozen
                yield group, slice(start, end)
            start = end

    @cached_property
    def _alike(self) -> list[tuple[int, list[int]]]:
        """(parameter group, places in a vector's parts) of the parameters that one call of the step can move."""
        found: dict[tuple[int, torch.dtype], list[int]] = {}
        groups = (k for k, group in enumerate(self.param_groups) for _ in group["params"])
        for i, k in enumerate(groups):
            found.setdefault((k, self.x.parts[i].dtype), []).append(i)
        # The norm has read the gradients from the first to the last, so the last are still in the cache.
        return [(k, places[::-1]) for (k, _), places in found.items()]


def inverse(norm: Tensor) -> Tensor:
    """1/norm, and 0 at norm 0, so that a normalised step of length 0 does nothing."""
    return torch.where(norm > 0, 1 / norm, 0.0)
