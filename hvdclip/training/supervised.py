"""Training a model and data of one's own: batches of (inputs, targets), a loss of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdclip.training.signals import InWorker
from hvdclip.training.task import Batch, Evaluation


class Supervised:
    """`loaders` maps "train" and at least one further split to iterables with a length, of (inputs, targets) batches.

    Every rank passes the loaders of its own shard; train loaders must be equally long on all ranks. A loader's sampler
    (or the loader itself) that has set_epoch is told the epoch.
    """

    def __init__(self, loaders: Mapping[str, Iterable[Any]], loss: str, device: torch.device):
        if "train" not in loaders or len(loaders) < 2:
            raise ValueError(
                f"the loaders are {', '.join(loaders)}; allowed: train and at least one split to evaluate on"
            )
        if len(loaders["train"]) == 0:  # type: ignore[arg-type]
            raise ValueError("the train loader has length 0 on this rank; allowed: at least one batch per rank")
        for loader in loaders.values():
            if getattr(loader, "num_workers", 0):
                loader.worker_init_fn = InWorker(getattr(loader, "worker_init_fn", None))  # type: ignore[attr-defined]
        self.loaders, self.device = loaders, device
        self.loss_function: Callable[..., Tensor] = getattr(functional, loss)
        self.metric = "accuracy" if loss == "cross_entropy" else None

    def batches(self, epoch: int) -> Iterator[Batch]:
        loader = self.loaders["train"]
        for owner in (loader, getattr(loader, "sampler", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        for inputs, targets in loader:
            yield Batch(inputs.to(self.device), targets.to(self.device), len(targets))

    def epoch_steps(self, epoch: int) -> int:
        return len(self.loaders["train"])  # type: ignore[arg-type]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.loss_function(model(batch.inputs), batch.targets)
        return loss, loss.detach()

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        total, correct, count = 0.0, 0.0, 0
        for inputs, targets in self.loaders[split]:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            outputs = model(inputs)
            total += self.loss_function(outputs, targets).item() * len(targets)
            if self.metric == "accuracy":
                correct += (outputs.argmax(dim=1) == targets).sum().item()
            count += len(targets)
        return Evaluation(total, correct, count)

    def description(self) -> str:
        return f"{self.epoch_steps(0):,} batches per rank and epoch"

    def remark(self, loss: float) -> str:
        return ""

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.loaders if split != "train")

    def shard_size(self) -> int:
        """Of the loader's dataset; where it has none, its number of batches."""
        loader = self.loaders["train"]
        return len(getattr(loader, "sampler", None) or loader)  # type: ignore[arg-type]

    def table(self) -> None:
        return None
