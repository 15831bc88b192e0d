"""Samples on their way from storage to a rank's device, read ahead by workers if requested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hvdclip.data import Samples
from hvdclip.training.feed import FEED
from hvdclip.training.signals import InWorker, held

Draw = tuple[Tensor, int | None]  # the numbers of samples, and the seed with which they are drawn


def read(
    samples: Samples, draws: Iterable[Draw], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, labels) of each draw, in order, on the device; ValueError for samples that cannot be read.

    What is drawn depends only on the draw's seed, not on workers or on the random numbers of this process.
    """
    loader = DataLoader(
        _Drawn(samples),
        batch_size=None,
        sampler=draws,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=InWorker(None),
        pin_memory=device.type == "cuda" and samples.place.type == "cpu",
        generator=torch.Generator(),  # otherwise it takes its workers' seeds from this process's random numbers
    )
    with held(), FEED.awaited():
        batches = iter(loader)
    for found in FEED.each(batches):
        if isinstance(found, ValueError):
            raise found
        rows, labels = found
        yield rows.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _Drawn(Dataset[Any]):
    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor] | ValueError:
        chosen, seed = draw
        try:
            return self.samples.rows(chosen, seed), self.samples.labels[chosen]
        except ValueError as error:  # a worker's own error would contain its stack as text
            return error


def _as_it_is(found: Any) -> Any:
    return found
