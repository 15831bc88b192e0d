"""AdamBO: Adam above and SGD below, with a Neumann sum for the hyper-gradient.

Gong, Hao, Liu: On the Convergence of Adam-Type Algorithm for Bilevel Optimization under Unbounded Smoothness. 2025.
From its abstract, reviews and a public code; the full paper was not available.
"""

from typing import Literal

from hvdclip.engine import Bilevel, Sharing
from hvdclip.engine.second_order import Levels
from hvdclip.flat.scalars import on_host
from hvdclip.settings import ESTIMATORS, BilevelSettings, Finite, setting


class AdamBO(Bilevel):
    name = "adambo"
    formula = (
        "at (x_i, y_i): h; y_i -= alpha Gy; m_i, v_i = Adam's moments of h; x_i -= eta m_i^/(sqrt(v_i^) + eps); "
        "every I steps x_i = mean x (lower shared: y too)"
    )
    paper = "Gong, Hao, Liu, 2025, TMLR 2026 (from abstract, reviews and code)"
    message_size = "P_x + P_y every I steps (lower own: P_x; estimator linear: P_y more)"
    memory = "2P_x"
    extra_gradients = "1 of the lower loss and Q of second order a step"

    class Settings(BilevelSettings):
        """eta is lr, alpha is lower_lr, Q is terms, I is interval; weight decay is AdamW's."""

        estimator: Literal["linear", "neumann"] = setting("neumann", description=ESTIMATORS)
        beta1: Finite = setting(0.9, ge=0, lt=1, description="decay rate of the first moment m")
        beta2: Finite = setting(0.999, ge=0, lt=1, description="decay rate of the second moment v")
        eps: Finite = setting(1e-8, gt=0, description="eps, added to sqrt(v^)", unit="g")
        lower_first: bool = setting(
            False, description="take y's step first, on a separate batch, as in the authors' code"
        )

    def keeps(self) -> dict[str, Sharing]:
        return {"m": self.of_momentum, "v": self.of_momentum}

    def set_up(self) -> None:
        self.space.refuse_float16(self.name)
        self.numbers["t"] = 0

    def bilevel_step(self, levels: Levels) -> None:
        beta1, beta2, eps = self.settings.beta1, self.settings.beta2, self.settings.eps
        m, v = self.vectors["m"], self.vectors["v"]
        if self.settings.lower_first:
            self.step_below(levels.gradient_below())
        now = levels.point()
        estimate = self.estimate(now)
        self.settle(estimate)
        if not self.settings.lower_first:
            self.step_below(now.gy)  # y -= alpha * Gy
        t = self.numbers["t"] = self.numbers["t"] + self.skip.taken
        m.lerp_(estimate.h, 1 - beta1)
        v.lerp_(estimate.h**2, 1 - beta2)
        m_hat, v_hat = 1 / (1 - beta1**t) * m, 1 / (1 - beta2**t) * v
        self.statistics.add_norm(on_host(m.norm()))
        self.move(m_hat / (v_hat**0.5 + eps))  # x -= eta * (m^/(sqrt(v^) + eps) + wd * x)
