"""What the training loop needs to know of a job: its batches, its loss, its evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn


class Batch(NamedTuple):
    """One step's data on this rank; eta and gamma of the step are multiplied by `scale`, the same on all ranks."""

    inputs: Any
    targets: Any
    samples: int
    scale: float = 1.0

    def pieces(self, number: int) -> Iterator[Batch]:
        """Its samples in that many pieces (or as many as there are samples), or the whole batch."""
        if number == 1:
            yield self
            return
        for inputs, targets in zip(self.inputs.tensor_split(number), self.targets.tensor_split(number), strict=True):
            if len(targets):
                yield Batch(inputs, targets, self.samples * len(targets) // len(self.targets), self.scale)


class Evaluation(NamedTuple):
    """Sums over this rank's share of a split: of the loss, and of the quantities whose means are the task's metrics."""

    samples: int
    loss: float
    metrics: tuple[float, ...] = ()


class Task:
    """A job: one pass of `batches(epoch)` on every rank is one epoch of all ranks together.

    `metrics` are the names of the means over a split's samples that an evaluation returns besides the loss. What
    continues from batch to batch besides the model, such as a hidden state, is the task's state.
    """

    metrics: tuple[str, ...] = ()

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch after the first `start`; the same number on all ranks."""
        raise NotImplementedError

    def epoch_steps(self, epoch: int) -> int:
        """The number of those batches."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """(what to differentiate, the loss to report)."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """This rank's share of a split, in eval mode; the caller adds up the ranks."""
        raise NotImplementedError

    def derived(self, loss: float) -> dict[str, float]:
        """What follows from the mean loss of a split, by its name in evals.jsonl."""
        return {}

    def description(self) -> str:
        """The data in a few words."""
        raise NotImplementedError

    def remark(self, loss: float) -> str:
        """What a loss means, in a few words; may be empty."""
        return ""

    def splits(self) -> tuple[str, ...]:
        """The splits to evaluate on: first the one watched during training."""
        raise NotImplementedError

    def shard_size(self) -> int:
        """The number of this rank's training samples."""
        raise NotImplementedError

    def table(self) -> list[list[int]] | None:
        """Counts of each label on each rank, if labelled data were shared out."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The state between two batches: tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that state; the next call is `batches` of the same epoch and start."""
