"""Whole training steps of an LSTM language model: hvdclip at several I, and alternatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from hvdclip.bench import gloo, worlds
from hvdclip.bench.blocks import Blocks, Peer, measure
from hvdclip.bench.report import Report
from hvdclip.bench.roster import Roster
from hvdclip.bench.shapes import message
from hvdclip.bench.traffic import Traffic
from hvdclip.comm import Communicator
from hvdclip.methods import optimizer
from hvdclip.models import LSTM

LR, MAX_NORM = 0.1, 0.25
BATCH, BPTT = 20, 35
STEP, AVERAGE, HOROVOD = "T_step", "T_comm", "horovod"
LANGUAGE: dict[str, dict[str, Any]] = {
    "lstm": {"vocabulary": 5000, "embedding": 200, "hidden": 200, "layers": 2},
    "small": {"vocabulary": 50, "embedding": 8, "hidden": 8, "layers": 1},
}
PLAIN = {f"celgc_{interval}": interval for interval in (1, 4, 16, 64)}
DELAYED: dict[str, Any] = {"interval": 4, "overlap": "delayed", "delay": 3, "drift": False}


class Way(NamedTuple):
    """A way to train: one step, and the steps of one of its rounds; `finish` makes the ranks agree.

    `lead` are steps before a block, so that an average is under way at its start, as one is at its end: a block then
    costs what as many steps cost within a long training.
    """

    model: nn.Module
    step: Callable[[], Any]
    round: int = 1
    finish: Callable[[], Any] = lambda: None
    lead: int = 0


class Task:
    """What every way trains: the same model from the same start, on each rank's own tokens."""

    def __init__(self, language: dict[str, Any], comm: Communicator):
        self.language, self.comm = language, comm
        drawn = torch.Generator().manual_seed(comm.rank)
        tokens = torch.randint(language["vocabulary"], (BPTT + 1, BATCH), generator=drawn)
        self.inputs, self.targets = tokens[:-1], tokens[1:]

    def model(self) -> LSTM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return LSTM(**self.language)

    def backward(self, model: nn.Module, state: Any) -> None:
        logits, _, _ = model(self.inputs, state)
        cross_entropy(logits.flatten(0, 1), self.targets.flatten()).backward()


def compare(shape: str, names: Sequence[str], comm: Communicator, steps: int, blocks: int) -> Report:
    """The peers of these names and the two references, in blocks of at least `steps` steps."""
    task, roster = Task(LANGUAGE[shape], comm), Roster(comm)
    traffic: dict[str, Traffic] = {}
    for name in (STEP, AVERAGE, *names):
        traffic[name] = Traffic(comm)
        roster.add(name, partial(_peer, name, task, steps, traffic[name]))
    peers = list(roster.peers.values())
    measured = measure(peers, comm, blocks)
    gloo.stop()
    more = {peer.name: _more(peer, measured, traffic[peer.name]) for peer in peers}
    size = sum(p.numel() for p in task.model().parameters())
    title = f"training steps of an LSTM with {size:,} floats on {comm.size} ranks"
    return Report(title, measured, {"to horovod": lambda name: HOROVOD}, roster.absent, more, FORMATS)


FORMATS = {
    "steps": "d",
    "samples_s_rank": ",.0f",
    "samples_s": ",.0f",
    "model_ms": ".3g",
    "deviation": "+.0%",
    "payload_bytes": ",.0f",
    "sent_bytes": ",.0f",
}


def _more(peer: Peer, measured: Blocks, traffic: Traffic) -> dict[str, Any]:
    """What is derived from the times, and the bytes of a step; a sample is a token."""
    seconds = measured.median(peer.name)
    payload, sent = (of_a_run / peer.steps for of_a_run in traffic.a_run())
    found: dict[str, Any] = {"steps": peer.steps, "sent_bytes": sent}
    if payload or peer.name == STEP:  # others do not count what they send
        found["payload_bytes"] = payload
    if peer.name != AVERAGE:
        samples = BATCH * BPTT / seconds
        found |= {"samples_s_rank": samples, "samples_s": samples * traffic.comm.size}
    if peer.name in PLAIN:
        model = measured.median(STEP) + measured.median(AVERAGE) / PLAIN[peer.name]
        found |= {"model_ms": 1e3 * model, "deviation": seconds / model - 1}
    return found


def _peer(name: str, task: Task, steps: int, traffic: Traffic) -> Peer:
    """The peer with that name, after a first round, which must make all ranks' parameters equal."""
    if name == AVERAGE:
        return _average(task, traffic)
    way = WAYS[name](task)
    steps = way.round * math.ceil(steps / way.round)

    def take(number: int) -> None:
        for _ in range(number):
            way.step()

    take(way.round)
    way.finish()
    if name != STEP:
        check_agreed(name, way.model, task.comm)
    run = partial(traffic.during, partial(take, steps))
    return Peer(name, run, begin=partial(take, way.lead), end=way.finish, steps=steps)


def _average(task: Task, traffic: Traffic) -> Peer:
    """One bare average of as many floats as are in a message."""
    vector = message([p.numel() for p in task.model().parameters()], task.comm)
    average = partial(task.comm.average_, [vector])
    return Peer(AVERAGE, partial(traffic.during, average))


def check_agreed(name: str, model: nn.Module, comm: Communicator) -> None:
    sums = comm.gather(sum(p.detach().double().sum().item() for p in model.parameters()), "bench")
    if max(sums) - min(sums) > 1e-6 * max(map(abs, sums)):
        raise AssertionError(f"{name}: the ranks' parameters differ after a block")


def _ours(task: Task, name: str = "celgc", **settings: Any) -> Way:
    model = task.model()
    ours = optimizer(name, model, comm=task.comm, lr=LR, max_norm=MAX_NORM, **settings)
    state = model.initial_state(BATCH)

    def step() -> None:
        ours.zero_grad()
        task.backward(model, state)
        ours.step()

    interval = settings.get("interval", 1)
    return Way(model, step, interval, ours.synchronize, lead=interval if "overlap" in settings else 0)


def _alone(task: Task) -> Way:
    """Steps without any communication."""
    return _ours(task, interval=10**9, drift=False)._replace(round=1, finish=lambda: None)


def _horovod(task: Task) -> Way:
    """Horovod's documented way to clip: between synchronize and a step that does not synchronize again."""
    hvd, model = worlds.horovod(), task.model()
    sgd = torch.optim.SGD(model.parameters(), LR)
    named = [(f"bench.{name}", p) for name, p in model.named_parameters()]
    distributed, state = hvd.DistributedOptimizer(sgd, named_parameters=named), model.initial_state(BATCH)

    def step() -> None:
        distributed.zero_grad()
        task.backward(model, state)
        distributed.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        with distributed.skip_synchronize():
            distributed.step()

    return Way(model, step)


def _ddp(task: Task) -> Way:
    gloo.start(task.comm)
    model = task.model()
    return Way(model, _torch_step(task, DistributedDataParallel(model), torch.optim.SGD(model.parameters(), LR)))


def _post_local_sgd(task: Task, period: int = 16) -> Way:
    """Without DDP around the model, which would also average gradients inside a node."""
    gloo.start(task.comm)
    model = task.model()
    averager = PeriodicModelAverager(period, warmup_steps=period - 1)  # so that the average is at the period's end
    return Way(
        model,
        _torch_step(task, model, PostLocalSGDOptimizer(torch.optim.SGD(model.parameters(), LR), averager)),
        period,
    )


def _torch_step(task: Task, model: nn.Module, sgd: torch.optim.Optimizer) -> Callable[[], None]:
    state = task.model().initial_state(BATCH)

    def step() -> None:
        sgd.zero_grad()
        task.backward(model, state)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        sgd.step()

    return step


WAYS: dict[str, Callable[[Task], Way]] = {
    STEP: _alone,
    HOROVOD: _horovod,
    "ddp": _ddp,
    "post_local_sgd_16": _post_local_sgd,
    "bucket_clip": partial(_ours, name="bucket_clip"),
    **{name: partial(_ours, interval=interval, drift=False) for name, interval in PLAIN.items()},
    "celgc_4_delayed": partial(_ours, **DELAYED),
    **{f"celgc_4_delayed_{way}": partial(_ours, compression=way, **DELAYED) for way in ("bf16", "int8", "topk")},
    "celgc_16_bf16": partial(_ours, interval=16, compression="bf16", drift=False),
    "celgc_16_int8": partial(_ours, interval=16, compression="int8", drift=False),
    "celgc_16_topk": partial(_ours, interval=16, compression="topk", drift=False),
    "celgc_16_node_4": partial(_ours, interval=16, node_interval=4, drift=False),
}
ON_NODES = "celgc_16_node_4"


def peers(text: str | None) -> list[str]:
    """The names in a list with commas, or all; ValueError lists all names."""
    known = [name for name in WAYS if name != STEP]
    names = known if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"--peers has {name!r}; allowed: {', '.join(known)}")
    return names


def language(name: str) -> str:
    """The name itself, if there is a language model with that name; ValueError lists all names."""
    if name not in LANGUAGE:
        raise ValueError(f"shape {name!r} is unknown; allowed: {', '.join(LANGUAGE)}")
    return name
