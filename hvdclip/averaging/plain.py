"""The plain average: all ranks wait for the mean of their x and continue from it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from hvdclip.averaging.exchange import Exchange
from hvdclip.averaging.outer import Outer
from hvdclip.averaging.rule import Priced, Rule, Steps
from hvdclip.flat import Vector


class Plain(Rule):
    """x becomes the mean over the ranks, or the result of an outer step from it.

    `before` is a copy of x before the average, if it is needed; `drift` says that ||x_i - mean x|| is measured.
    """

    def __init__(self, exchange: Exchange, outer: Outer | None, before: Vector | None, drift: bool):
        self.exchange, self.x = exchange, exchange.x
        self.outer, self.before, self.drift = outer, before, drift
        self._handed_over = 0.0  # the time at which x was sent
        self._own: Vector | None = None  # x of a rank that does not count in the average

    @property
    def messages(self) -> Sequence[Priced]:
        return [self.exchange.message]

    def apart(self) -> list[str]:
        return self.exchange.apart()

    def end_round(self, method: Steps) -> None:
        self.send(method)
        self.receive(method)

    def send(self, method: Steps) -> None:
        """Send x."""
        method.statistics.fold()  # waits for the steps on a device, before the average's time begins
        self._handed_over = time.perf_counter()
        method.end_round()
        if self.before is not None:
            self.before.copy_(self.x)
        if not method.participation.everyone and not method.counts:
            self._own = self.x.clone() if method.participation.joined else None
            self.x.zero_()
        self.exchange.start((method.seed, method.rounds))
        method.close_round()

    def receive(self, method: Steps) -> None:
        """Take the mean of what was sent."""
        self.exchange.wait()
        mean = self.take_mean(method)
        if mean is not self.x:
            self.x.copy_(mean)
        self.complete(method)

    def take_mean(self, method: Steps) -> Vector:
        """The new x, in the memory of x or of a message."""
        mean, share = self.exchange.finish(), method.participation.share(method.statistics)
        if share == 0:
            assert self._own is not None  # no rank has taken a step: x does not change
            mean.copy_(self._own)
        elif share != 1:
            mean.mul_(torch.tensor(1 / share, dtype=torch.float64))
        if self.drift and (method.participation.everyone or method.counts):
            assert self.before is not None
            # ||x_i - mean x||: known only now, so it travels in the next message
            method.statistics.add("drift", self.before.sub_(mean).norm() / share)
        if self.outer is not None and share != 0:
            self.outer(mean, method.statistics.absent_everywhere())
        return mean

    def complete(self, method: Steps) -> None:
        """Called when all ranks have met."""
        method.meet()
        method.complete_round(time.perf_counter() - self._handed_over)
