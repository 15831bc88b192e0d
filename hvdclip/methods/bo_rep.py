"""BO-REP: bilevel steps; some begin with a few steps of the lower problem inside a ball.

Hao, Gong, Liu: Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence Analysis. ICLR 2024.
From its abstract, reviews and the authors' code; the full paper was not available.
"""

from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from hvdclip.engine import Bilevel, Sharing
from hvdclip.engine.second_order import Levels
from hvdclip.flat import Vector
from hvdclip.settings import Finite, UpperStepSettings, setting

REFINEMENT = ("refine_steps", "refine_epochs", "refine_lr", "refine_radius")


class BORep(Bilevel):
    name = "bo_rep"
    formula = (
        "every T_y steps `lower_steps` times y_i = proj(y_i - alpha Gy); at (x_i, y_i): h = Fx - J z_i; "
        "z_i -= nu (H z_i - Fy); m_i = beta m_i + (1-beta) h; x_i -= eta m_i/||m_i||; every I steps x_i = mean x "
        "(lower shared: y, z too)"
    )
    paper = "Hao, Gong, Liu, ICLR 2024 (from abstract, reviews and code)"
    message_size = "P_x + 2P_y every I steps (lower own: P_x)"
    memory = "P_x + P_y"
    extra_gradients = "1 + lower_steps/T_y of the lower loss and 1 of second order a step"

    class Settings(UpperStepSettings):
        """eta is lr, alpha is lower_lr, nu is z_lr, T_y is lower_period, I is interval."""

        lower_period: int = setting(2, ge=1, description="T_y, steps between two refinements of y", unit="steps")
        lower_steps: int = setting(3, ge=1, description="steps in a refinement", unit="steps")
        radius: Finite | None = setting(
            None, gt=0, description="R, radius of the ball around the old y that a refinement cannot leave", unit="y"
        )
        refine: Literal["steps", "epochs"] = setting(
            "steps",
            description="the warm start: plain steps, or epoch-SGD with refine_epochs epochs, each twice as long as "
            "the last",
        )
        refine_steps: int | None = setting(None, ge=1, description="epochs: T1, steps of the first epoch", unit="steps")
        refine_epochs: int | None = setting(None, ge=1, description="epochs: S, the number of epochs", unit="epochs")
        refine_lr: Finite | None = setting(
            None,
            gt=0,
            description="epochs: alpha1, step size of the first epoch, halved in each further one",
            unit="y/g",
        )
        refine_radius: Finite | None = setting(
            None,
            gt=0,
            description="epochs: D1, radius of the first epoch's ball, divided by sqrt(2) in each further one",
            unit="y",
        )

        @model_validator(mode="after")
        def _epochs_are_whole(self) -> Self:
            for name in REFINEMENT:
                if (getattr(self, name) is None) == (self.refine == "epochs"):
                    allowed = "a number" if self.refine == "epochs" else "none"
                    raise ValueError(f"{name} is {getattr(self, name)}; allowed with refine {self.refine}: {allowed}")
            if self.refine == "epochs" and "warm_start" in self.model_fields_set:
                raise ValueError("warm_start is given; allowed with refine epochs: none, since it is T1 (2^S - 1)")
            return self

    @property
    def warm_start(self) -> int:
        if self.settings.refine == "steps":
            return super().warm_start
        return int(self.settings.refine_steps * (2**self.settings.refine_epochs - 1))

    def keeps(self) -> dict[str, Sharing]:
        return {"m": self.of_momentum}

    def keeps_below(self) -> dict[str, Sharing]:
        return {"center": self.below, "mean": self.below} if self.settings.refine == "epochs" else {}

    def bilevel_step(self, levels: Levels) -> None:
        if self.k > 0 and self.k % self.settings.lower_period == 0:
            before = self.y.clone()
            for _ in range(self.settings.lower_steps):
                self.step_below(levels.gradient_below())  # y -= alpha * Gy
                self._project(before, self.settings.radius)
        estimate = self.estimate(levels.point())  # h = Fx - J z
        self.settle(estimate)  # z -= nu * (H z - Fy)
        self.step_above(estimate.h)

    def warm_up(self, levels: Levels) -> None:
        if self.settings.refine == "steps":
            super().warm_up(levels)
        else:
            self._epoch_step(levels)

    def _epoch_step(self, levels: Levels) -> None:
        """One step w of epoch s; y is the mean of an epoch's w when it ends."""
        number, epoch, length = self.steps - 1, 0, int(self.settings.refine_steps)
        while number >= length:
            number, epoch, length = number - length, epoch + 1, 2 * length
        center, mean = self.vectors["center"], self.vectors["mean"]
        if number == 0:
            center.copy_(self.y)
            mean.zero_()
        rate = self.below_scaled(self.settings.refine_lr) / 2**epoch
        self.y.sub_(rate * levels.gradient_below())  # w -= alpha1/2^s * Gy
        self._project(center, self.settings.refine_radius / 2 ** (epoch / 2))
        mean.add_((1 / length) * self.y)
        if number == length - 1:
            self.y.copy_(mean)

    def _project(self, center: Vector, radius: float | None) -> None:
        """y becomes the nearest point of a ball."""
        if radius is None:
            return
        way = self.y - center
        norm = way.norm()
        self.y.copy_where(norm > radius, center + (radius / norm) * way)
