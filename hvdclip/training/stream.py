"""The stream: a task's batches on this rank, epoch after epoch, from any position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hvdclip.training.task import Batch, Task


class Stream:
    """`number` is that of the current epoch, `position` the batches taken from it; `batches` is all of them."""

    def __init__(self, task: Task):
        self.task = task
        self.number = self.position = self.batches = 0
        self.length = task.epoch_steps(0)
        self._epoch: Iterator[Batch] | None = None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.number + self.position / self.length

    @property
    def epochs(self) -> int:
        """Complete passes."""
        return self.number + (self.position == self.length)

    def take(self) -> Batch:
        """The next batch; RuntimeError if an epoch gives fewer than its length says."""
        if self.position == self.length:
            self.number, self.position = self.number + 1, 0
            self.length = self.task.epoch_steps(self.number)
        if self._epoch is None:
            self._epoch = self.task.batches(self.number, self.position)
        batch = next(self._epoch, None)
        if batch is None:
            raise RuntimeError(f"the train loader gave {self.position} batches, but its length says {self.length}")
        self.position += 1
        self.batches += 1
        if self.position == self.length:
            self._epoch = None  # a loader's workers are not needed any more
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.number, "position": self.position, "batches": self.batches, "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.position, self.batches = state["epoch"], state["position"], state["batches"]
        self.length, self._epoch = self.task.epoch_steps(self.number), None

    def load_share(self, state: dict[str, Any]) -> None:
        """Continue after the same share of the epoch, which other ranks had cut into another number of batches."""
        self.load_state_dict(state)
        self.position = round(state["position"] / state["length"] * self.length)
        self.batches = sum(self.task.epoch_steps(epoch) for epoch in range(self.number)) + self.position
