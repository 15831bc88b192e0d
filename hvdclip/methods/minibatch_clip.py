"""Large-batch clipping: I gradients at the same x on each rank, then one clipped step along their mean.

The baseline with the communication of a local method: as many messages, but no local steps.
"""

from contextlib import suppress

import torch

from hvdclip.engine import GradientMethod, StepLeftOut
from hvdclip.flat import Gradient
from hvdclip.settings import ClippedSgdSettings, setting


class MinibatchClip(GradientMethod):
    name = "minibatch_clip"
    formula = "g = mean of I gradients of each of N ranks at x; every I gradients x -= min(eta, gamma/||g||) d"
    paper = "Liu, Zhuang, Lei, Liao, NeurIPS 2022 (a large-batch form of their baseline)"
    message_size = "P every I gradients"
    memory = "P"

    class Settings(ClippedSgdSettings):
        """eta is lr, I is interval."""

        interval: int = setting(
            1, ge=1, description="I, gradients of each rank for one step of x; each counts as a step", unit="steps"
        )

    @property
    def interval(self) -> int:
        return self.settings.interval

    def set_up(self) -> None:
        self.vectors["mean_g"] = self.message.vectors[0]

    def gradient_step(self, g: Gradient) -> None:
        self.vectors["mean_g"].lerp_(g, 1 / self.steps_in_round)
        if self.steps_in_round >= self.interval:
            self._move_x()

    @torch.no_grad()
    def synchronize(self) -> None:
        if self.steps_in_round:
            with suppress(StepLeftOut), self._leaving_alone():
                self._move_x()
            self._finish_round()
            self.kept.keep()

    def _move_x(self) -> None:
        try:
            self.exchange()
            d = self.sgd.direction(self.vectors["mean_g"])
            factor = self.clip(d.vector)
            # each of the gradients counts as a step
            self.statistics.add("clipped", self.steps_in_round * (factor < 1), alike=True)
            self.sgd.descend(d, factor)  # x -= min(eta, gamma/||g||) * d
        finally:
            self.vectors["mean_g"].zero_()
