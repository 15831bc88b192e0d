"""Training the user's own model and data: (inputs, targets) and a loss of torch's, or any batches and an own loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdclip.comm import Communicator
from hvdclip.config import import_function
from hvdclip.training import randomness
from hvdclip.training.batches import check_loaders, moved, number_of, pair, samples_in
from hvdclip.training.feed import FEED
from hvdclip.training.signals import InWorker, held
from hvdclip.training.task import Batch, Evaluation, Task


class Supervised(Task):
    """`loaders` maps "train" and at least one further split to iterables with a length, of (inputs, targets) batches.

    Every rank passes the loaders of its own shard. If train loaders have different lengths, the first batches of each
    are taken, as many as the shortest has. A loader's sampler (or the loader itself) that has set_epoch gets the epoch.
    To continue in the middle of an epoch the loader starts again with the random numbers at the start of the epoch, and
    its first batches are dropped.
    """

    def __init__(
        self, loaders: Mapping[str, Iterable[Any]], loss: str, device: torch.device, label_smoothing: float = 0.0
    ):
        check_loaders(loaders)
        for loader in loaders.values():
            if getattr(loader, "num_workers", 0):
                loader.worker_init_fn = InWorker(getattr(loader, "worker_init_fn", None))  # type: ignore[attr-defined]
        self.loaders, self.device = loaders, device
        self.lengths = [len(loaders["train"])]  # type: ignore[arg-type]
        self._drawn: dict[str, Any] | None = None  # the random states at the start of the epoch
        self.loss_function = self._loss_function(loss)
        self.smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
        self.metrics = ("accuracy",) if loss == "cross_entropy" else ()

    def _loss_function(self, name: str) -> Callable[..., Any]:
        return getattr(functional, name)  # type: ignore[no-any-return]

    def _batch(self, found: Any, split: str) -> Batch:
        """What a loader has returned, on the device."""
        inputs, targets = pair(found, split)
        return Batch(moved(inputs, self.device), moved(targets, self.device), len(targets))

    def even_out(self, comm: Communicator) -> None:
        """Learn how long all ranks' train loaders are; all ranks must call it."""
        self.lengths = comm.gather(self.lengths[0])

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        loader = self.loaders["train"]
        owners = (loader, getattr(loader, "sampler", None))
        for owner in owners:
            set_epoch = getattr(owner, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        if start and self._drawn is not None:
            randomness.set_generators(owners, self._drawn["generators"])
            with randomness.continued_from(self._drawn["global"]):
                batches = _after(start, loader)
        else:
            self._drawn = {"global": randomness.get_state(), "generators": randomness.get_generators(owners)}
            batches = _after(start, loader)
        for found in itertools.islice(batches, self.epoch_steps(epoch) - start):
            yield self._batch(found, "train")

    def epoch_steps(self, epoch: int) -> int:
        return min(self.lengths)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.loss_function(model(batch.inputs), batch.targets, **self.smoothing)
        return loss, loss.detach()

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        total, correct, count = 0.0, 0, 0
        for found in _after(0, self.loaders[split]):
            batch = self._batch(found, split)
            outputs = model(batch.inputs)
            total += self.loss_function(outputs, batch.targets).item() * batch.samples
            if self.metrics:
                correct += (outputs.argmax(dim=1) == batch.targets).sum().item()
            count += batch.samples
        return Evaluation(count, total, (correct,) if self.metrics else ())

    def description(self) -> str:
        shortest, longest = min(self.lengths), max(self.lengths)
        uneven = f" (loaders have up to {longest:,}, of which the first {shortest:,} are taken)"
        return f"{shortest:,} batches per rank and epoch{uneven * (shortest < longest)}"

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.loaders if split != "train")

    def shard_size(self) -> int:
        """The number of samples of the loader's dataset; if it has none, the number of batches."""
        loader = self.loaders["train"]
        try:
            return len(getattr(loader, "sampler", None) or loader)  # type: ignore[arg-type]
        except TypeError:  # an IterableDataset has no length
            return self.lengths[0]

    def state_dict(self) -> dict[str, Any]:
        """The random states at the start of the current epoch."""
        return {} if self._drawn is None else self._drawn

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._drawn = state or None


class WithOwnLoss(Supervised):
    """With the user's `loss(model, batch)`, the mean over a batch of any kind."""

    def _loss_function(self, name: str) -> Callable[..., Any]:
        function = import_function(name)
        return lambda model, batch: number_of(function(model, batch), name)

    def _batch(self, found: Any, split: str) -> Batch:
        return Batch(moved(found, self.device), None, samples_in(found, split))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.loss_function(model, batch.inputs)
        return loss, loss.detach()

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        total, count = 0.0, 0
        for found in _after(0, self.loaders[split]):
            batch = self._batch(found, split)
            total += self.loss_function(model, batch.inputs).item() * batch.samples
            count += batch.samples
        return Evaluation(count, total)


def _after(number: int, loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches without its first ones."""
    with held(), FEED.awaited():
        batches = iter(loader)
    batches = FEED.each(batches)
    for _ in itertools.islice(batches, number):
        pass
    return batches
