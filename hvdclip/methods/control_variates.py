"""Control variates: each rank's step is corrected by what its gradients differ from the ranks' mean.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning.
ICML 2020.
"""

from __future__ import annotations

from hvdclip.flat import Gradient, Vector
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.settings import Finite, LocalSettings, setting
from hvdclip.numbers import Number


class ControlledSettings(LocalSettings):
    """eta is lr, I is interval."""

    momentum: Finite = setting(0.0, ge=0, lt=1, description="momentum of g + wd*x; the correction does not go into it")


class Corrected(LocalMethod):
    """Local steps along u, a gradient corrected by c - c_i: what this rank's gradients differ from the ranks' mean."""

    def keeps(self) -> tuple[str, ...]:
        return ("momentum",) if self.settings.momentum else ()

    def corrected(self, g: Gradient, c_i: Vector, c: Vector) -> Vector:
        """u = g - c_i + c, or with momentum u = buf(g + wd*x) - c_i + c."""
        if not self.settings.momentum:
            return g - c_i + c
        buf = self.vectors["momentum"]
        buf.copy_(self.settings.momentum * buf + self.with_weight_decay(g))
        return buf - c_i + c

    def descend(self, u: Vector, factor: Number = 1.0) -> None:
        """x -= eta * factor * u; without momentum the weight decay joins here."""
        self.move(u, factor, weight_decay=not self.settings.momentum)


class Controlled(Corrected):
    """c_i stands for rank i's gradient, c for the mean over the ranks; after a round c_i+ replaces c_i.

    A method's file defines `new_control()`, and its step from `controlled(g)`.
    """

    def new_control(self) -> Vector:
        """c_i+, from the round that ends."""
        raise NotImplementedError

    def has_new_control(self) -> bool:
        """False where all steps of the round were left out, their gradients not being finite."""
        return self.numbers["steps_done"] > 0

    def keeps(self) -> tuple[str, ...]:
        return (*super().keeps(), "c_i", "c", "change")

    def travels(self) -> tuple[str, ...]:
        return ("change",)

    def controlled(self, g: Gradient) -> Vector:
        """u = g - c_i + c; counts the step."""
        self.numbers["steps_done"] += 1
        return self.corrected(g, self.vectors["c_i"], self.vectors["c"])

    def start_round(self) -> None:
        self.numbers["steps_done"] = 0

    def end_round(self) -> None:
        if not self.has_new_control():
            self.vectors["change"].zero_()
            return
        new = self.new_control()
        self.vectors["change"].copy_(new - self.vectors["c_i"])
        self.vectors["c_i"].copy_(new)

    def after_average(self) -> None:
        self.vectors["c"].add_(self.vectors["change"])  # c += mean(c_i+ - c_i)
