"""The user's own data: what loaders and batches must be, and batches of any shape on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hvdclip.errors import ConfigError

ALLOWED = "(inputs, targets); or any kind with train.loss: my.module:loss, which is called as loss(model, batch)"


def check_loaders(loaders: Any) -> None:
    """ValueError, in one line, if hvdclip cannot train on what the user's function has returned."""
    what = 'a dictionary {"train": ..., "valid": ...} of iterables over batches, such as DataLoaders'
    if not isinstance(loaders, Mapping):
        raise ValueError(f"the function of data returned {_kind(loaders)}; allowed: {what}")
    if "train" not in loaders or len(loaders) < 2:
        splits = ", ".join(map(str, loaders))
        raise ValueError(f"the loaders are {splits}; allowed: train and at least one split to evaluate on")
    for split, loader in loaders.items():
        if not hasattr(loader, "__iter__") or isinstance(loader, Iterator):
            raise ValueError(
                f"the {split} loader is {_kind(loader)}; allowed: an iterable that can be iterated over again each "
                "epoch"
            )
    try:
        length = len(loaders["train"])
    except TypeError as error:
        raise ValueError(
            f"the train loader has no length ({error}); allowed: one with a length; an IterableDataset needs "
            "__len__, its number of samples on this rank"
        ) from None
    if length == 0:
        raise ValueError("the train loader has length 0 on this rank; allowed: at least one batch per rank")


def pair(batch: Any, split: str) -> tuple[Tensor, Tensor]:
    """Its inputs and targets; ConfigError if it is something else."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(hasattr(part, "to") for part in batch):
        raise ConfigError(f"data: a batch of the {split} loader is {_kind(batch)}; allowed: {ALLOWED}")
    if not isinstance(batch[1], Tensor) or batch[1].dim() == 0:
        raise ConfigError(f"data: the targets of the {split} loader are {_kind(batch[1])}; allowed: {ALLOWED}")
    return batch[0], batch[1]


def moved(batch: Any, device: torch.device) -> Any:
    """The same on the device: tensors, and what has a method `to`, in dictionaries, tuples and lists.

    A copy from pinned memory runs by itself: a loader that fills the same memory again has to wait for it.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda" and batch.is_cpu and batch.is_pinned())
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def samples_in(batch: Any, split: str) -> int:
    """The length of its first tensor; ConfigError if there is none."""
    first = next(_tensors(batch), None)
    if first is None:
        raise ConfigError(
            f"data: a batch of the {split} loader, {_kind(batch)}, has no tensor whose first dimension counts samples"
        )
    return len(first)


def number_of(loss: Any, name: str) -> Tensor:
    """The user's own loss; ConfigError if it is not a tensor of one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(
            f"train.loss: {name} returned {_kind(loss)}; allowed: a tensor of one number, the mean over the batch"
        )
    return loss.reshape(())


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        if batch.dim() > 0:
            yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _tensors(value)


def _kind(found: Any) -> str:
    """A description in a few words."""
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, Mapping):
        return f"a {type(found).__name__} with {', '.join(map(str, list(found)[:8])) or 'nothing'}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of length {len(found)}"
    return "None" if found is None else f"of type {type(found).__name__}"
