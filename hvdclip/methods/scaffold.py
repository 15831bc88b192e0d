"""SCAFFOLD: local SGD corrected by control variates.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, Algorithm 1.
"""

from typing import Literal

import torch
from torch import Tensor

from hvdclip.engine import OWN, LocalMethod, Sharing
from hvdclip.flat import Gradient, Scalar, Vector
from hvdclip.flat.scalars import on_host
from hvdclip.methods.control_variates import ControlledSettings, ControlVariates, descend, momentum_of
from hvdclip.settings import setting
from hvdclip.torch_private import foreach_div_


class Scaffold(LocalMethod):
    name = "scaffold"
    formula = (
        "x_i -= eta (g_i - c_i + c); every I steps c_i+ = c_i - c + (x_round - x_i)/(I eta) (option II) or a gradient "
        "at x_round (option I), c += mean(c_i+ - c_i), x_i = mean x"
    )
    paper = "Karimireddy et al., ICML 2020, Algorithm 1"
    message_size = "2P every I steps"
    memory = "4P"
    peak = "5P"
    extra_gradients = "none (option I: 1 a round)"

    class Settings(ControlledSettings):
        """eta is lr, I is interval."""

        option: Literal["I", "II"] = setting(
            "II",
            description="c_i+ from a fresh gradient at x_round, one more per round (I), or from x_round - x_i (II)",
        )

        @property
        def needs_x_round(self) -> bool:
            return self.option == "II"

    @property
    def needs_closure(self) -> bool:
        return self.settings.option == "I"

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(momentum_of(self.settings))

    def keeps(self) -> dict[str, Sharing]:
        fresh = {"fresh": OWN} if self.settings.option == "I" else {}
        return ControlVariates.keeps(self.settings) | fresh

    def set_up(self) -> None:
        self.controls = ControlVariates(self)

    def start_round(self) -> None:
        self.numbers["steps_done"] = 0
        if self.settings.option == "I":
            fresh = self.fresh_gradient()
            self.vectors["fresh"].copy_(fresh)
            self.numbers["usable"] = on_host(fresh.norm().isfinite().all())
        self.numbers["lengths"] = [0.0 for _ in self.descent.spans()]

    def local_step(self, g: Gradient) -> None:
        self.numbers["steps_done"] += self.skip.taken
        u = self.controls.corrected(self, g)
        descend(self, u)  # x -= eta * u
        steps = [group["lr"] * self.step_scale * self.skip.taken for group, _ in self.descent.spans()]
        self.numbers["lengths"] = [sum(pair) for pair in zip(self.numbers["lengths"], steps, strict=True)]

    def end_round(self) -> None:
        if self.settings.option == "I":
            self.controls.replace(self.vectors["fresh"], self.numbers["usable"])
        else:
            self.controls.replace(self._from_the_update(), self.numbers["steps_done"] > 0)

    def after_average(self) -> None:
        self.controls.after_average()

    def _from_the_update(self) -> Vector:
        """c_i - c + (x_round - x_i)/(K eta); K eta is the sum of the round's step sizes, separately for each group."""
        update = self.x_round - self.x
        for (_, span), length in zip(self.descent.spans(), self.numbers["lengths"], strict=True):
            foreach_div_(update.parts[span], _or_one(length))
        return update.add_(self.controls.c_i).sub_(self.controls.c)


def _or_one(length: Scalar) -> Scalar:
    """The length, or 1 if it is 0: then the group's lr is 0, or all steps were left out, and it has not moved."""
    return torch.where(length > 0, length, 1.0) if isinstance(length, Tensor) else length or 1.0
