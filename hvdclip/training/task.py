"""What the training loop needs to know of a job: its batches, its loss, its evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Batch(NamedTuple):
    """One step's data on this rank; eta and gamma of the step are multiplied by `scale`, the same on all ranks."""

    inputs: Any
    targets: Any
    samples: int
    scale: float = 1.0


class Evaluation(NamedTuple):
    """Sums over this rank's share of a split: of the loss, of the metric's summand, and the number of samples."""

    loss: float
    correct: float
    samples: int


class Task(Protocol):
    """A job: one pass of `batches(epoch)` on every rank is one epoch of all ranks together.

    What goes on from batch to batch beside the model, say a hidden state, is the task's state.

    `metric` is perplexity, accuracy, gradient_norm or None.
    """

    @property
    def metric(self) -> str | None: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch after the first `start`; equally many on all ranks."""

    def epoch_steps(self, epoch: int) -> int:
        """How many those are."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """(what to differentiate, the loss to report)."""

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """This rank's share of a split, in eval mode; the caller adds up the ranks."""

    def description(self) -> str:
        """The data in a few words."""

    def remark(self, loss: float) -> str:
        """What a loss means, in a few words; may be empty."""

    def splits(self) -> tuple[str, ...]:
        """The splits to evaluate on: first the one watched during training."""

    def shard_size(self) -> int:
        """The number of this rank's training samples."""

    def table(self) -> list[list[int]] | None:
        """Counts of each label on each rank, where labelled data were shared out."""

    def state_dict(self) -> dict[str, Any]:
        """The state between two batches: tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the next call is `batches` of the same epoch and start."""
