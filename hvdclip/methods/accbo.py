"""AccBO: normalised steps along a recursive momentum, above stochastic Nesterov steps whose y is averaged.

Gong, Hao, Liu: An Accelerated Algorithm for Stochastic Bilevel Optimization under Unbounded Smoothness. NeurIPS 2024.
From its abstract and the authors' code; the full paper was not available.
"""

from typing import Literal

from hvdclip.engine import OWN, Bilevel, Sharing
from hvdclip.engine.estimators import Estimate
from hvdclip.engine.second_order import Levels
from hvdclip.flat import Vector
from hvdclip.settings import ESTIMATORS, Finite, UpperStepSettings, setting


class AccBO(Bilevel):
    name = "accbo"
    formula = (
        "every T_y steps `lower_steps` times u = y_i + nu_N (y_i - y_before), y_i = u - alpha Gy(x_i, u); "
        "y^_i = (1-tau) y^_i + tau y_i; m_i = h(x_i, y^_i; B) + beta (m_i - h(x_old, y^_old; B)); "
        "x_i -= eta m_i/||m_i||; every I steps x_i = mean x (lower shared: y, y_before, y^ too)"
    )
    paper = "Gong, Hao, Liu, NeurIPS 2024 (from abstract and code)"
    message_size = "P_x + 3P_y every I steps (lower own: P_x; estimator linear: P_y more)"
    memory = "2P_x + 3P_y"
    extra_gradients = "1 of the upper loss, 2 + lower_steps/T_y of the lower one and 2Q of second order a step"

    class Settings(UpperStepSettings):
        """eta is lr, alpha is lower_lr, T_y is lower_period, nu_N is nesterov, Q is terms, I is interval."""

        estimator: Literal["linear", "neumann"] = setting("neumann", description=ESTIMATORS)
        lower_period: int = setting(1, ge=1, description="T_y, steps between two groups of y's steps", unit="steps")
        lower_steps: int = setting(1, ge=1, description="steps of y in a group", unit="steps")
        nesterov: Finite = setting(0.5, ge=0, lt=1, description="nu_N, weight of y's last move in the next one")
        tau: Finite = setting(0.5, gt=0, le=1, description="weight of y in its running mean y^")

    def keeps(self) -> dict[str, Sharing]:
        return {"m": self.of_momentum, "x_old": OWN}

    def keeps_below(self) -> dict[str, Sharing]:
        return {"y_before": self.below, "y_mean": self.below, "y_mean_old": OWN}

    def set_up(self) -> None:
        self.vectors["y_before"].copy_(self.y)
        self.vectors["y_mean"].copy_(self.y)
        self.numbers["taken"] = False

    def bilevel_step(self, levels: Levels) -> None:
        y_mean, tau = self.vectors["y_mean"], self.settings.tau
        if self.k % self.settings.lower_period == 0:
            for _ in range(self.settings.lower_steps):
                self._nesterov_step(levels)
        y_mean.lerp_(self.y, tau)  # y^ = (1 - tau) * y^ + tau * y
        estimate = self._estimate_at(levels, self.x, y_mean)
        new, has_last = estimate.h, self._has_last_point()
        if has_last:
            old = self._estimate_at(levels, self.vectors["x_old"], self.vectors["y_mean_old"], again=True)
            new = new + self.settings.beta * (self.vectors["m"] - old.h)
        self.settle(estimate)
        self.vectors["m"].copy_(new)  # h + beta * (m - h')
        self.vectors["x_old"].copy_(self.x)
        self.vectors["y_mean_old"].copy_(y_mean)
        self.move_above(self.vectors["m"])
        if not has_last:
            self.numbers["taken"] = self.skip.taken

    def warm_up(self, levels: Levels) -> None:
        self._nesterov_step(levels)
        self.vectors["y_mean"].copy_(self.y)

    def _nesterov_step(self, levels: Levels) -> None:
        """u = y + nu_N (y - y_before); y = u - alpha Gy(x, u)."""
        before, y = self.y.clone(), self.y
        y.add_(self.settings.nesterov * (y - self.vectors["y_before"]))
        self.vectors["y_before"].copy_(before)
        self.step_below(levels.gradient_below())

    def _estimate_at(self, levels: Levels, x: Vector, y: Vector, again: bool = False) -> Estimate:
        """h at this point: the parameters have these values while the losses are computed."""
        with self.x.replaced_by(x), self.y.replaced_by(y):
            return self.estimate(levels.point(again))

    def _has_last_point(self) -> bool:
        """Whether a step has been taken. The losses of the next one depend on it, so the host has to know once."""
        self.numbers["taken"] = bool(self.numbers["taken"])
        return self.numbers["taken"]
