"""Bilevel jobs: two streams of batches, the two losses of a step, and an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hvdclip.comm import Communicator
from hvdclip.data.cleaning import FlippedLabels
from hvdclip.methods import Method
from hvdclip.problems import Bilevel as BilevelFunction
from hvdclip.training import randomness
from hvdclip.training.batches import moved, number_of, samples_in
from hvdclip.training.precision import Precision
from hvdclip.training.problem import ProblemTask
from hvdclip.training.stream import Stream
from hvdclip.training.supervised import WithOwnLoss
from hvdclip.training.task import Batch, Evaluation, Task

SPLITS = ("upper", "lower", "test")
OF_MODEL = ("upper", "lower", "upper_loss", "lower_loss", "evaluate")


class BilevelTask(Task):
    """The lower batches, of the task `below`, make the epochs; the upper batches are a separate stream."""

    below: Task
    above: Stream

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.below.batches(epoch, start)

    def epoch_steps(self, epoch: int) -> int:
        return self.below.epoch_steps(epoch)

    def upper_loss(self, model: Any, batch: Batch) -> Tensor:
        return number_of(model.upper_loss(batch.inputs), "upper_loss")

    def lower_loss(self, model: Any, batch: Batch) -> Tensor:
        return number_of(model.lower_loss(batch.inputs), "lower_loss")

    def splits(self) -> tuple[str, ...]:
        return ("test",)

    def state_dict(self) -> dict[str, Any]:
        return {"above": self.above.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.above.load_state_dict(state["above"])


class BilevelProblem(BilevelTask, ProblemTask):
    """A problem of x and y; its one split is the exact objective at x, with the y that belongs to it."""

    problem: BilevelFunction

    def __init__(self, problem: BilevelFunction, seed: int, rank: int):
        ProblemTask.__init__(self, problem, seed, rank)
        self.below = ProblemTask(problem, seed, rank)
        self.above = Stream(self.below)

    def upper_loss(self, model: Any, batch: Batch) -> Tensor:
        return self.problem.upper_loss(model.x, model.y, self.rank)

    def lower_loss(self, model: Any, batch: Batch) -> Tensor:
        return self.problem.lower_loss(model.x, model.y, self.rank)

    def splits(self) -> tuple[str, ...]:
        return ("exact",)


class Cleaning(BilevelTask):
    """Each rank has a run of the train and of the validation samples, all of them in every batch; gradients are exact.

    The metrics besides the test accuracy: the mean weights of train samples with right and with wrong labels, and the
    share of samples that "weight < .5" classifies correctly.
    """

    metrics = ("accuracy", "weight_right", "weight_wrong", "told_apart")

    def __init__(self, data: FlippedLabels, device: torch.device, rank: int, ranks: int):
        self.data, self.rank, self.ranks = data, rank, ranks
        self.places = _run_of(len(data.train.labels), rank, ranks)
        self.test = moved((data.test.features, data.test.labels, torch.zeros(0, dtype=torch.long)), device)
        below = (data.train.features[self.places], data.train.labels[self.places], self.places)
        clean = _run_of(len(data.validation.labels), rank, ranks)
        above = (data.validation.features[clean], data.validation.labels[clean], clean)
        self.below = Same(Batch(moved(below, device), None, len(self.places)))
        self.above = Stream(Same(Batch(moved(above, device), None, len(clean))))

    def evaluate(self, model: Any, split: str) -> Evaluation:
        """On the whole test set, because ranks may have different parameters; weights of this rank's samples."""
        found, count = model.evaluate(self.test), len(self.data.test.labels)
        weights, right = torch.sigmoid(model.x.detach()[self.places]).cpu(), self.data.right[self.places]
        everyone = self.data.right
        shares = (
            _share(weights[right], int(everyone.sum())),
            _share(weights[~right], int((~everyone).sum())),
            _share(((weights >= 0.5) == right).float(), len(everyone)),
        )
        # each rank's part of a mean over all; the sums are divided by the samples of all ranks
        return Evaluation(
            count,
            found["loss"].item() * count,
            (found["accuracy"].item() * count, *(share * self.ranks * count for share in shares)),
        )

    def description(self) -> str:
        wrong, clean = int((~self.data.right).sum()), len(self.data.validation.labels)
        return f"{len(self.data.right):,} digits, {wrong:,} of them mislabelled, and {clean:,} clean ones"

    def shard_size(self) -> int:
        return len(self.places)


class Same(Task):
    """One batch in every step."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return iter([self.batch][start:])

    def epoch_steps(self, epoch: int) -> int:
        return 1


class Side(WithOwnLoss):
    """The loader of one level."""

    def __init__(self, loader: Any, test: Any, device: torch.device):
        super().__init__({"train": loader, "test": test}, "", device)

    def _loss_function(self, name: str) -> Callable[..., Any]:
        return lambda model, batch: None


class OwnBilevel(BilevelTask):
    """The user's loaders for the two levels and the test; the model says what the losses are."""

    below: Side

    def __init__(self, loaders: Any, device: torch.device):
        if not isinstance(loaders, Mapping) or set(loaders) != set(SPLITS):
            raise ValueError(
                "the function of data returned something else; allowed for a bilevel algorithm: a dictionary "
                '{"upper": ..., "lower": ..., "test": ...} of iterables over batches'
            )
        self.below = Side(loaders["lower"], loaders["test"], device)
        self.side_above = Side(loaders["upper"], loaders["test"], device)
        self.above = Stream(self.side_above)
        self.test, self.device = loaders["test"], device

    def evaluate(self, model: Any, split: str) -> Evaluation:
        sums: dict[str, float] = {"loss": 0.0}
        count = 0
        for batch in self.test:
            samples, found = samples_in(batch, "test"), model.evaluate(moved(batch, self.device))
            for name, mean in (found if isinstance(found, Mapping) else {"loss": found}).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * samples
            count += samples
        self.metrics = tuple(name for name in sums if name != "loss")
        return Evaluation(count, sums["loss"], tuple(sums[name] for name in self.metrics))

    def description(self) -> str:
        return f"{self.above.length:,} upper and {self.below.epoch_steps(0):,} lower batches per rank"

    def even_out(self, comm: Communicator) -> None:
        """Learn how long all ranks' loaders are; all ranks must call it."""
        self.below.even_out(comm)
        self.side_above.even_out(comm)
        self.above = Stream(self.side_above)

    def shard_size(self) -> int:
        return self.below.shard_size()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"of_upper": self.side_above.state_dict(), "of_lower": self.below.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.side_above.load_state_dict(state["of_upper"])
        self.below.load_state_dict(state["of_lower"])
        super().load_state_dict(state)


class Trains(Protocol):
    """What trains the model."""

    task: Any
    model: nn.Module
    stream: Stream
    optimizer: Method
    precision: Precision


class TwoLosses:
    """The losses of a step, each on the next batch of its stream, or on its last one again with the same dropout."""

    def __init__(self, trainer: Trains):
        self.trainer, task = trainer, trainer.task
        self.upper = Level(trainer, task.upper_loss, lambda: task.above)
        self.lower = Level(trainer, task.lower_loss, lambda: trainer.stream)


class Level:
    """One of the two losses, as a closure."""

    def __init__(self, trainer: Trains, loss: Callable[[Any, Batch], Tensor], stream: Callable[[], Stream]):
        self.trainer, self.loss, self.stream = trainer, loss, stream
        self.batch: Batch | None = None
        self.drawn: randomness.State = {}

    def __call__(self, again: bool = False) -> Tensor:
        if again:
            with randomness.continued_from(self.drawn):
                return self._loss()
        self.batch, self.drawn = self.stream().take(), randomness.torch_state()
        self.trainer.optimizer.record(samples=self.batch.samples)
        return self._loss()

    def _loss(self) -> Tensor:
        assert self.batch is not None
        with self.trainer.precision.cast():
            return self.loss(self.trainer.model, self.batch)


class Both(nn.Module):
    """A user's object that is not a module, as one that contains its upper and lower parameters."""

    def __init__(self, given: Any):
        super().__init__()
        self.upper, self.lower = map(_as_module, (given.upper, given.lower))
        self.upper_loss, self.lower_loss, self.evaluate = given.upper_loss, given.lower_loss, given.evaluate


def checked(model: Any, name: str) -> nn.Module:
    """The model of a bilevel job as a module; ValueError if it lacks something."""
    lacks = [each for each in OF_MODEL if not hasattr(model, each)]
    if lacks:
        raise ValueError(
            f"model.name is {name!r}, which has no {', '.join(lacks)}; allowed for a bilevel algorithm: an object with "
            "upper and lower, modules or parameters, and upper_loss(batch), lower_loss(batch) and evaluate(batch)"
        )
    return model if isinstance(model, nn.Module) else Both(model)


def levels_of(model: Any) -> tuple[Any, Any]:
    """The upper and lower parameters of a model, as hvdclip.optimizer takes them."""
    upper, lower = ([each] if isinstance(each, nn.Parameter) else each for each in (model.upper, model.lower))
    return upper, lower


def _as_module(given: Any) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    return nn.ParameterList([given] if isinstance(given, nn.Parameter) else given)


def _run_of(samples: int, rank: int, ranks: int) -> Tensor:
    """The numbers of a rank's samples, one after another."""
    return torch.arange(samples).tensor_split(ranks)[rank]


def _share(numbers: Tensor, of: int) -> float:
    return numbers.sum().item() / max(1, of)
