"""Evaluation of the averaged model, split over the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hvdclip.comm import Communicator
from hvdclip.training.task import Task


def evaluate(task: Task, model: nn.Module, split: str, comm: Communicator) -> dict[str, Any]:
    """The loss of `model`, as it is on each rank, over a whole split, and the task's metrics.

    All ranks must call it.
    """
    with _evaluating(model), torch.no_grad():
        mine = task.evaluate(model, split)
    samples, *sums = comm.sum([mine.samples, mine.loss, *mine.metrics])
    if samples == 0:
        raise ValueError(f"the split {split!r} has no samples on any rank")
    means = [total / samples for total in sums]
    return {"split": split} | dict(zip(("loss", *task.metrics), means, strict=True)) | task.derived(means[0])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = {module: module.training for module in model.modules()}
    # an evaluation must not change what torch draws afterwards
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, training in was_training.items():
                module.training = training
