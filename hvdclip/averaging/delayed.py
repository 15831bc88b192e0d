"""Delayed averages: ranks take steps while their x is averaged, and then move by mean x - snapshot.

Wang, Liang, Joshi: Overlap Local-SGD. ICASSP 2020 (there with an anchor model).
Douillard et al.: Streaming DiLoCo. 2025 (alpha).
"""

from __future__ import annotations

from typing import Any

from hvdclip.averaging.exchange import Exchange
from hvdclip.averaging.outer import Outer
from hvdclip.averaging.plain import Plain
from hvdclip.averaging.rule import Progress, Steps
from hvdclip.flat import Vector
from hvdclip.messages import MovingBuffers, Statistics
from hvdclip.torch_private import foreach_copy_


class Delayed(Plain):
    """The mean is taken `delay` steps after a snapshot of x was sent (I - 1 steps if `delay` is None).

    x_global is what all ranks then make of the snapshots: their mean, or the result of an outer step from x_round. It
    is the next x_round. x becomes x_global + (x - snapshot), which keeps the steps since the snapshot in full. With an
    `alpha` from 0 to 1 it becomes alpha * x + (1 - alpha) * x_global; an alpha above 0 leaves the ranks apart.
    """

    before: Vector
    settles = False

    def __init__(
        self,
        exchange: Exchange,
        outer: Outer | None,
        before: Vector,
        drift: bool,
        delay: int | None,
        alpha: float | None,
        moving: MovingBuffers,
        statistics: Statistics,
        progress: Progress,
    ):
        super().__init__(exchange, outer, before, drift)
        self.delay, self.alpha = delay, alpha
        self.moving, self.statistics, self.progress = moving, statistics, progress
        self.under_way = False  # an average has been started and its mean not yet taken
        self._arrived = False

    def after_step(self, method: Steps, ends: bool) -> None:
        if self.under_way and method.steps_in_round >= self._delay(method):
            self.receive(method)

    def end_round(self, method: Steps) -> None:
        self.send(method)
        self.under_way, self._arrived, self.agree = True, False, not self.alpha
        if self._delay(method) == 0:
            self.receive(method)

    def take(self, method: Steps) -> None:
        if self.under_way:
            self.receive(method)

    def receive(self, method: Steps) -> None:
        self.wait()
        if self.alpha is None:
            self.x.sub_(self.before)  # the steps since the snapshot
            self.x.add_(self.take_mean(method))
        else:
            self.x.lerp_(self.take_mean(method), 1 - self.alpha)
        self.under_way = False
        self.complete(method)

    def wait(self) -> None:
        if self.under_way and not self._arrived:
            self.exchange.wait()
            self._arrived = True

    def apart_in_x(self) -> list[str]:
        return ["steps that a delayed average has not met yet"]

    def state_dict(self) -> dict[str, Any]:
        if not self.under_way:
            return {"under_way": None}
        under_way = {
            "received": [tensor.clone() for tensor in self.exchange.message.received or ()],
            "statistics": self.statistics.size,
            "snapshot": [flat.clone() for flat in self.before.flats],
            "buffers": [tensor.clone() for tensor in self.moving.then],
            "closed": dict(self.progress.closed),
        }
        return {"under_way": under_way}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["under_way"]
        self.under_way = self._arrived = self.statistics.answered = saved is not None
        if saved is None:
            return
        if saved.get("statistics") != self.statistics.size:
            raise ValueError(
                "the state has an unfinished average in the format of an older hvdclip, which this one cannot load"
            )
        self.exchange.message.restore(saved["received"])
        foreach_copy_(self.before.flats, saved["snapshot"])
        self.moving.then = [tensor.to(self.before.flats[0].device) for tensor in saved["buffers"]]
        self.progress.closed = dict(saved["closed"])

    def _delay(self, method: Steps) -> int:
        """Steps of the current round after which the last round's average is taken."""
        return method.interval - 1 if self.delay is None else min(self.delay, method.interval - 1)
