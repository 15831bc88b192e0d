"""SCAFFOLD: local SGD corrected by control variates (option II).

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, Algorithm 1.
"""

import torch

from hvdclip.flat import Gradient, Vector
from hvdclip.methods.control_variates import Controlled, ControlledSettings


class Scaffold(Controlled):
    name = "scaffold"
    formula = "x_i -= eta (g_i - c_i + c); every I steps c_i+ = c_i - c + (x_round - x_i)/(I eta), x_i = mean x"
    paper = "Karimireddy et al., ICML 2020, Algorithm 1, option II"
    message_size = "2P every I steps"

    class Settings(ControlledSettings):
        """eta is lr, I is interval."""

    def keeps(self) -> tuple[str, ...]:
        return (*super().keeps(), "x_round")

    def start_round(self) -> None:
        super().start_round()
        self.vectors["x_round"].copy_(self.x)
        self.numbers["lengths"] = [0.0 for _ in self.spans()]

    def local_step(self, g: Gradient) -> None:
        self.descend(self.controlled(g))  # x -= eta * u
        steps = [group["lr"] * self.step_scale for group, _ in self.spans()]
        self.numbers["lengths"] = [sum(pair) for pair in zip(self.numbers["lengths"], steps, strict=True)]

    def new_control(self) -> Vector:
        """c_i - c + (x_round - x_i)/(K eta), K eta being the sum of the round's step sizes, of each group its own."""
        c_i, c, way = self.vectors["c_i"], self.vectors["c"], self.vectors["x_round"] - self.x
        for (_, span), length in zip(self.spans(), self.numbers["lengths"], strict=True):
            torch._foreach_div_(way.parts[span], length or 1.0)  # a group with lr 0 has not moved
        return c_i - c + way
