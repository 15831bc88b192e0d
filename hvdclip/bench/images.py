"""Whole training steps of an image model on synthetic images: with hvdclip, and with torch alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hvdclip import models
from hvdclip.bench import worlds
from hvdclip.bench.blocks import Peer, measure
from hvdclip.bench.report import Report, device_name
from hvdclip.bench.roster import Roster
from hvdclip.comm import Communicator
from hvdclip.methods import optimizer
from hvdclip.training.precision import Precision

LR, MAX_NORM, CLASSES = 0.1, 1.0, 1000
TORCH, HOROVOD = "clip_grad_norm_ + SGD, fused", "horovod"
NEVER = 10**9  # steps until an average
AVERAGED = {f"celgc, I = {interval}": interval for interval in (1, 8, 64)}


class Setting(NamedTuple):
    """What is trained, and in which precision; samples are images of (3, side, side)."""

    model: str
    batch: int
    side: int
    precision: str
    channels_last: bool
    device: torch.device


class Task:
    """The same model from the same start for every peer, and one batch that is used again and again."""

    def __init__(self, setting: Setting, comm: Communicator):
        self.setting, self.comm = setting, comm
        self.precision = Precision(setting.precision, setting.device)
        drawn = torch.Generator().manual_seed(comm.rank)
        shape = (setting.batch, 3, setting.side, setting.side)
        self.images = torch.randn(shape, generator=drawn).to(setting.device)
        self.labels = torch.randint(CLASSES, (setting.batch,), generator=drawn).to(setting.device)

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            made = models.build(self.setting.model, shape=tuple(self.images.shape[1:]), classes=CLASSES)
        order = torch.channels_last if self.setting.channels_last else torch.preserve_format
        return made.to(self.setting.device, memory_format=order)  # type: ignore[call-overload]

    def backward(self, model: nn.Module) -> None:
        with self.precision.cast():
            loss = cross_entropy(model(self.images), self.labels)
        loss.backward()


def compare(setting: Setting, comm: Communicator, steps: int, blocks: int) -> Report:
    """The ways that work here, in blocks of that many steps."""
    task, roster = Task(setting, comm), Roster(comm)
    for name, way in WAYS.items():
        roster.add(name, partial(_peer, name, way, task, steps))
    measured = measure(list(roster.peers.values()), comm, blocks)
    rates = {name: {"images_s": comm.size * setting.batch / measured.median(name)} for name in roster.peers}
    images = f"{setting.batch} images of {setting.side} x {setting.side} a rank"
    ranks = f"{comm.size} rank{'s' * (comm.size > 1)} on {device_name(setting.device)}"
    title = f"{setting.model}, {images}, {setting.precision}, {ranks}"
    references: dict[str, Callable[[str], str | None]] = {
        "to torch": lambda name: TORCH,
        "to horovod": lambda name: HOROVOD,
    }
    return Report(title, measured, references, roster.absent, rates, {"images_s": ",.1f"})


def _peer(name: str, way: Callable[[Task], Callable[[], Any]], task: Task, steps: int) -> Peer:
    step, interval = way(task), AVERAGED.get(name, 1)
    steps = interval * math.ceil(steps / interval)  # whole rounds
    step()

    def run() -> None:
        for _ in range(steps):
            step()

    return Peer(name, run, steps=steps)


def _ours(task: Task, interval: int) -> Callable[[], Any]:
    model = task.model()
    ours = optimizer("celgc", model, comm=task.comm, lr=LR, max_norm=MAX_NORM, interval=interval, drift=False)

    def step() -> None:
        ours.zero_grad()
        task.backward(model)
        ours.step()

    return step


def _torch(task: Task, **kind: bool) -> Callable[[], Any]:
    model = task.model()
    sgd = torch.optim.SGD(model.parameters(), LR, **kind)

    def step() -> None:
        sgd.zero_grad()
        task.backward(model)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        sgd.step()

    return step


def _horovod(task: Task) -> Callable[[], Any]:
    """Horovod's documented way to clip: between synchronize and a step that does not synchronize again."""
    hvd, model = worlds.horovod(), task.model()
    sgd = torch.optim.SGD(model.parameters(), LR)
    distributed = hvd.DistributedOptimizer(sgd, named_parameters=model.named_parameters(prefix="bench"))

    def step() -> None:
        distributed.zero_grad()
        task.backward(model)
        distributed.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        with distributed.skip_synchronize():
            distributed.step()

    return step


WAYS: dict[str, Callable[[Task], Callable[[], Any]]] = {
    TORCH: partial(_torch, fused=True),
    "clip_grad_norm_ + SGD": _torch,
    HOROVOD: _horovod,
    "celgc, no average": partial(_ours, interval=NEVER),
    **{name: partial(_ours, interval=interval) for name, interval in AVERAGED.items()},
}
