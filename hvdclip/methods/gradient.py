"""Gradient methods: one gradient message a step, so that all ranks hold the same x at all times."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from hvdclip.flat import Gradient, Vector
from hvdclip.messages import Message
from hvdclip.methods.steps import Steps


class StepLeftOut(Exception):
    """Some rank's gradient is not finite, as the message has told all of them."""


class GradientMethod(Steps):
    """A method's file defines `gradient_step(g)`, which calls `mean` once."""

    def gradient_step(self, g: Gradient) -> None:
        """Move the common x, given this rank's gradient g."""
        raise NotImplementedError

    def mean(self, v: Vector, factor: Tensor | None = None) -> Vector:
        """The mean of v, or of factor * v, over the ranks: the step's one collective."""
        total = self.message.vectors[0].copy_(v)
        if factor is not None:
            total.mul_(factor)
        self.exchange()
        return total

    def exchange(self) -> None:
        """The message's way, after which it is known whether the step is to be left out."""
        self.communicate()
        if self.statistics.failed or self.statistics.overflowed:
            raise StepLeftOut

    def communicate(self) -> None:
        self.message.average()
        self.message.vectors[0].common = True

    def _lay_out(self) -> tuple[Message, Vector]:
        return self.message_of(1, [self.buffers, self.statistics]), self.space.vector()

    @property
    def interval(self) -> int:
        """Gradients to a step of x."""
        return 1

    def _advance(self, g: Gradient | None) -> None:
        assert g is not None
        with suppress(StepLeftOut):
            self.gradient_step(g)
        if self.steps_in_round >= self.interval:
            self._finish_round()
