"""A warm-up in which all ranks step together, along the mean of their gradients."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hvdclip.averaging.rule import Priced, Rule, Steps, Wrapper
from hvdclip.flat import Gradient
from hvdclip.messages import Message


class GradientWarmup(Wrapper):
    """In the first `steps` steps gradients are averaged, so the ranks have the same x; then another rule applies."""

    def __init__(self, rule: Rule, message: Message, steps: int):
        super().__init__(rule)
        self.message, self.steps = message, steps
        self._seconds = 0.0  # that the last average took

    @property
    def messages(self) -> Sequence[Priced]:
        return [*self.rule.messages, self.message]

    def step(self, method: Steps, g: Gradient) -> None:
        if not self._lasts(method):
            self.rule.step(method, g)
            return
        method.statistics.fold()  # waits for the gradient on a device, before the average's time begins
        start = time.perf_counter()
        mean = self.message.vectors[0].copy_(g)
        self.message.average()
        self._seconds = time.perf_counter() - start
        together = Gradient(mean.parts, mean.norm())
        together.alike = True
        method.take_common_step(together)

    def after_step(self, method: Steps, ends: bool) -> None:
        if not self._lasts(method):
            self.rule.after_step(method, ends)

    def end_round(self, method: Steps) -> None:
        if not self._lasts(method):
            self.rule.end_round(method)
            return
        method.close_round()
        method.complete_round(self._seconds)

    def _lasts(self, method: Steps) -> bool:
        return method.steps <= self.steps
