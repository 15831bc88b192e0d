"""SGDOL: a step size learnt online from two independent gradients at each point.

Zhuang, Cutkosky, Orabona: Surrogate Losses for Online Learning of Stepsizes in Stochastic Non-Convex Optimization.
ICML 2019.
"""

import torch

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, Finite, setting


class SGDOL(LocalMethod):
    name = "sgdol"
    formula = (
        "eta_t = (alpha + sum <g_s, g_s'>)/(M (alpha + sum ||g_s||^2)), s < t, within [0, 2/M]; x_i -= lr eta_t g_i; "
        "every I steps x_i = mean x"
    )
    paper = "Zhuang, Cutkosky, Orabona, ICML 2019"
    message_size = "P every I steps"
    memory = "P"
    peak = "2P"
    extra_gradients = "1 a step"

    class Settings(AveragingSettings):
        """lr multiplies the learnt step size, I is interval."""

        lr: Finite = setting(
            1.0, gt=0, description="multiplies the learnt step size eta_t; 1 is the paper's rule", unit="1"
        )
        M: Finite = setting(10.0, gt=0, description="M, smoothness: eta_1 = 1/M, and eta_t is at most 2/M", unit="g/x")
        alpha: Finite = setting(
            10.0, gt=0, description="alpha, weight of the first step size among those learnt", unit="g^2"
        )

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def changes(self) -> tuple[str, ...]:
        return ()  # the sums mask themselves, and g is overwritten

    def keeps(self) -> tuple[str, ...]:
        return ("g",)

    def local_step(self, g: Gradient) -> None:
        M, alpha = self.settings.M, self.settings.alpha
        g_s = self.vectors["g"].copy_(g)  # the second gradient overwrites .grad
        start = torch.full((), alpha, dtype=torch.float64, device=self.space.device)
        products, squares = self.numbers.get("sums", (start, start))
        new_products, new_squares = products + g_s.dot(self.fresh_gradient()), squares + g_s.dot(g_s)
        self.move(g_s, (products / (M * squares)).clamp(0, 2 / M))  # x -= eta_t * g
        left_out = self.skip.flag > 0
        self.numbers["sums"] = (
            torch.where(left_out, products, new_products),
            torch.where(left_out, squares, new_squares),
        )
