"""SLIP: a single loop of bilevel steps; the upper, lower and linear problem each take one step at the same point.

Gong, Hao, Liu: A Nearly Optimal Single Loop Algorithm for Stochastic Bilevel Optimization under Unbounded Smoothness.
ICML 2024. From its abstract and the authors' code; the full paper was not available.
"""

from hvdclip.engine import Bilevel, Sharing
from hvdclip.engine.second_order import Levels
from hvdclip.settings import UpperStepSettings, setting


class Slip(Bilevel):
    name = "slip"
    formula = (
        "at (x_i, y_i, z_i): h = Fx - J z_i; z_i -= nu (H z_i - Fy); y_i -= alpha Gy; m_i = beta m_i + (1-beta) h; "
        "x_i -= eta m_i/||m_i||; every I steps x_i = mean x (lower shared: y, z too)"
    )
    paper = "Gong, Hao, Liu, ICML 2024 (from abstract and code)"
    message_size = "P_x + 2P_y every I steps (lower own: P_x)"
    memory = "P_x + P_y"
    extra_gradients = "1 of the lower loss and 1 of second order a step"

    class Settings(UpperStepSettings):
        """eta is lr, alpha is lower_lr, nu is z_lr, I is interval."""

        lower_first: bool = setting(
            False, description="take y's step first, on a separate batch, as in the authors' code"
        )

    def keeps(self) -> dict[str, Sharing]:
        return {"m": self.of_momentum}

    def bilevel_step(self, levels: Levels) -> None:
        if self.settings.lower_first:
            self.step_below(levels.gradient_below())
        now = levels.point()
        estimate = self.estimate(now)  # h = Fx - J z
        self.settle(estimate)  # z -= nu * (H z - Fy)
        if not self.settings.lower_first:
            self.step_below(now.gy)  # y -= alpha * Gy
        self.step_above(estimate.h)
