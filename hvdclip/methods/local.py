"""Local methods: steps of each rank's own, and one average of the parameters every I steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hvdclip.flat import Gradient, Vector
from hvdclip.message import Message, mean_over_ranks
from hvdclip.methods.steps import Steps


class LocalMethod(Steps):
    """A method's file defines `local_step(g)`; the average after each I-th step is done here."""

    def local_step(self, g: Gradient) -> None:
        """Move this rank's x by its own gradient g."""
        raise NotImplementedError

    def end_round(self) -> None:
        """After the last step of a round, before x and what travels with it are averaged."""

    def after_average(self) -> None:
        """When x and what travels with it are means over the ranks."""

    def _lay_out(self) -> tuple[Message, Vector]:
        message = Message(self.space, 1 + len(self.travels()), [self.buffers, self.statistics], self.comm)
        self.vectors |= dict(zip(self.travels(), message.vectors[1:], strict=True))
        self._before = self.space.vector() if self.settings.drift else None
        return message, message.vectors[0]

    def _advance(self, g: Gradient) -> None:
        if not (self._host_skips and self._skip):
            self.local_step(g)
        if self.steps_in_round >= self.settings.interval:
            self._average()

    def _average(self) -> None:
        self.end_round()
        if self._before is None:
            self.message.average()
        else:
            self._before.copy_(self.x)
            self.message.average()
            # ||x_i - mean x||: known only now, so it travels in the next message
            self.statistics.add("drift", self._before.sub_(self.x).norm())
        self.after_average()
        self._finish_round()

    def _finish_round(self) -> None:
        first = self.rounds == 0
        super()._finish_round()
        self._round["interval"] = self.settings.interval
        self._drift_known = self.settings.drift and not first

    @property
    def last_round(self) -> dict[str, Any]:
        metrics = super().last_round
        if metrics and not self._drift_known:
            metrics["drift"] = None
        return metrics

    @torch.no_grad()
    def synchronize(self) -> None:
        if self.steps_in_round:
            self._average()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        with super().averaged():
            if self.steps_in_round == 0:
                yield
                return
            own_buffers = [buffer.clone() for buffer in self.buffers.tensors()]
            with torch.no_grad():
                mean = mean_over_ranks(self.x, self.space, [self.buffers], self.comm)
            try:
                with self.x.replaced_by(mean):
                    yield
            finally:
                with torch.no_grad():
                    for buffer, own in zip(self.buffers.tensors(), own_buffers, strict=True):
                        buffer.copy_(own)
