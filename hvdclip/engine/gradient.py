"""Gradient methods: one gradient message a step, so that all ranks have the same x at all times."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from hvdclip.averaging.rule import Priced
from hvdclip.comm import Communicator
from hvdclip.engine.groups import Parameters
from hvdclip.engine.method import Method
from hvdclip.engine.sharing import Sharing
from hvdclip.engine.skip import StepLeftOut
from hvdclip.flat import Gradient, Vector


class GradientMethod(Method):
    """A method's file defines `gradient_step(g)`, which calls `mean` once."""

    def __init__(self, model_or_params: Parameters, settings: Any, comm: Communicator):
        super().__init__(model_or_params, settings, comm)
        if travelling := self.named(Sharing.TRAVELS):
            raise TypeError(
                f"{self.name}: {', '.join(travelling)} cannot travel, because gradients do; allowed: OWN, COMMON"
            )
        self.gradients.common = True
        self._messages = self.make_messages()
        self._start(self.space.vector())

    # What an algorithm's file defines

    def gradient_step(self, g: Gradient) -> None:
        """Move the common x, given this rank's gradient g."""
        raise NotImplementedError

    def make_messages(self) -> list[Any]:
        """The messages of a step; buffers and statistics ride in one of them."""
        return [self.message_of(1, [self.buffers, self.statistics])]

    def communicate(self) -> None:
        """Have them averaged."""
        self.message.average()
        self.message.vectors[0].alike = True

    @property
    def messages(self) -> Sequence[Priced]:
        return self._messages

    @property
    def interval(self) -> int:
        """Gradients to a step of x."""
        return 1

    # What the algorithm's file uses

    def mean(self, v: Vector, factor: Tensor | None = None) -> Vector:
        """The mean of v, or of factor * v, over the ranks: the step's one collective."""
        total = self.message.vectors[0].copy_(v)
        if factor is not None:
            total.mul_(factor)
        self.exchange()
        if self.participation.joined:
            total.mul_(1 / self.participation.share(self.statistics))
        return total

    def exchange(self) -> None:
        """Send the messages; StepLeftOut, on all ranks, if the gradient of one is not finite."""
        self.communicate()
        nobody = self.participation.joined and self.statistics.present == 0
        if self.statistics.failed or self.statistics.overflowed or nobody:
            self.kept.put_back()
            raise StepLeftOut

    def take(self, g: Gradient) -> None:
        with suppress(StepLeftOut):
            self.gradient_step(g)

    def sit_out(self) -> None:
        """Take the others' step, with a gradient of weight zero."""
        # a parameter for which no other rank has a gradient does not move
        self.gradients.absent = list(range(len(self.x.parts)))
        self.skip.decide(False)
        self._take(self.space.gradient([torch.zeros_like(part) for part in self.x.parts]))

    @property
    def ends_step(self) -> bool:
        return self.steps_in_round == 0

    def after_step(self) -> None:
        if self.steps_in_round >= self.interval:
            self._finish_round()

    def communication(self) -> str:
        every = "step" if self.interval == 1 else f"{self.interval} steps"
        return f"gradients averaged every {every}"
