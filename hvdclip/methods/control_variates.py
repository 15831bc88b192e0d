"""Control variates: each rank's step is corrected by the difference between its gradients and the ranks' mean.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning.
ICML 2020.
"""

from __future__ import annotations

from torch import Tensor

from hvdclip.engine import OWN, TRAVELS, LocalMethod, Sharing
from hvdclip.flat import Gradient, Scalar, Vector
from hvdclip.settings import Finite, LocalSettings, setting


class ControlledSettings(LocalSettings):
    """eta is lr, I is interval."""

    momentum: Finite = setting(0.0, ge=0, lt=1, description="momentum of g + wd*x; without the correction")


def momentum_of(settings: ControlledSettings) -> dict[str, Sharing]:
    """The momentum, if there is one."""
    return {"momentum": OWN} if settings.momentum else {}


def corrected(method: LocalMethod, g: Gradient, c_i: Vector, c: Vector) -> Vector:
    """u = g - c_i + c, or with momentum u = buf(g + wd*x) - c_i + c."""
    if not method.settings.momentum:
        return (g - c_i).add_(c)
    buf = method.vectors["momentum"].mul_(method.settings.momentum).add_(method.with_weight_decay(g))
    return (buf - c_i).add_(c)


def descend(method: LocalMethod, u: Vector, factor: Scalar = 1.0) -> None:
    """x -= eta * factor * u; without momentum the weight decay is added here."""
    method.move(u, factor, weight_decay=not method.settings.momentum)


class ControlVariates:
    """c_i stands for rank i's gradient, c for the mean over the ranks; after a round c_i+ replaces c_i."""

    def __init__(self, method: LocalMethod):
        self.c_i, self.c, self.change = (method.vectors[name] for name in ("c_i", "c", "change"))

    @staticmethod
    def keeps(settings: ControlledSettings) -> dict[str, Sharing]:
        """Their vectors; the changes are averaged together with x."""
        return momentum_of(settings) | {"c_i": OWN, "c": OWN, "change": TRAVELS}

    def corrected(self, method: LocalMethod, g: Gradient) -> Vector:
        """u = g - c_i + c."""
        return corrected(method, g, self.c_i, self.c)

    def replace(self, new: Vector, made: Tensor | bool) -> None:
        """c_i = c_i+, if the round has made one."""
        self.change.copy_(new).sub_(self.c_i).zero_unless(made)
        self.c_i.copy_where(made, new)

    def after_average(self) -> None:
        self.c.add_(self.change)  # c += mean(c_i+ - c_i)
