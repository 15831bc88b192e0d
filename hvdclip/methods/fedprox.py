"""Local SGD with a proximal term that holds each rank near the last average.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks. MLSys 2020.
"""

from typing import Self

from pydantic import model_validator

from hvdclip.flat import Gradient
from hvdclip.methods.averaging_settings import LocalSgdSettings
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.settings import Finite, setting
from hvdclip.methods.sgd_family import SgdFamily


class FedProx(SgdFamily, LocalMethod):
    name = "fedprox"
    formula = "g_i += mu (x_i - x_round); x_i -= eta d_i; every I steps x_i = mean x"
    paper = "Li et al., MLSys 2020"
    message_size = "P every I steps"
    memory = "P"

    class Settings(LocalSgdSettings):
        """eta is lr, I is interval."""

        mu: Finite = setting(ge=0, description="mu, weight of the proximal term mu/2 ||x - x_round||^2", unit="g/x")

        @model_validator(mode="after")
        def _starts_from_the_mean(self) -> Self:
            if self.overlap != "none":
                raise ValueError(f"overlap is {self.overlap!r}, but x_round is a mean; allowed with fedprox: none")
            return self

    def keeps(self) -> tuple[str, ...]:
        return (*super().keeps(), "x_round")

    def alike(self) -> tuple[str, ...]:
        return (*super().alike(), "x_round")

    def start_round(self) -> None:
        self.vectors["x_round"].copy_(self.x)

    def local_step(self, g: Gradient) -> None:
        g_prox = g + self.settings.mu * (self.x - self.vectors["x_round"])
        self.descend(self.direction(g_prox))  # x -= eta * d
