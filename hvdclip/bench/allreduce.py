"""One average of a model's parameters over the ranks: hvdclip's, and those of alternatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

from hvdclip.bench import gloo, worlds
from hvdclip.bench.blocks import Peer, measure
from hvdclip.bench.report import Report
from hvdclip.bench.roster import Roster
from hvdclip.bench.shapes import Shape, message, parameters, size_in_words
from hvdclip.comm import Communicator
from hvdclip.methods import optimizer
from hvdclip.torch_private import foreach_add_

OURS, BARE = "hvdclip celgc", "Horovod, bare flat vector"
NEVER = 10**9  # steps until an average happens by itself


class Way(NamedTuple):
    """A way to average: the tensors that then contain the means, the call that averages, the call before it."""

    tensors: Sequence[Tensor]
    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


class Task:
    """What every way gets: this rank's tensors, which it must replace by the means over the ranks."""

    def __init__(self, of: list[Shape], comm: Communicator):
        self.of, self.comm = of, comm
        drawn = torch.Generator().manual_seed(comm.rank)
        self.mine = [torch.empty(shape).normal_(generator=drawn) for shape in of]
        self.means = [mine.double() for mine in self.mine]
        comm.average_(self.means, "bench")
        self.gradients = [torch.zeros(shape) for shape in of]

    def parameters(self) -> list[nn.Parameter]:
        """Parameters for one way alone, with gradients of zero."""
        own = parameters(self.of)
        for p, gradient in zip(own, self.gradients, strict=True):
            p.grad = gradient
        return own

    def flat(self) -> tuple[Tensor, list[Tensor]]:
        """A vector with as many floats as hvdclip's message, and its parts in these shapes."""
        sizes = [mine.numel() for mine in self.mine]
        vector = message(sizes, self.comm)
        pieces = vector[: sum(sizes)].split(sizes)
        return vector, [piece.view(shape) for piece, shape in zip(pieces, self.of, strict=True)]

    def peer(self, name: str, make: Callable[[Task], Way]) -> Peer:
        """The peer of one way; RuntimeError unless it produces the means."""
        way = make(self)

        def prepare() -> None:
            for tensor, mine in zip(way.tensors, self.mine, strict=True):
                tensor.data.copy_(mine)
            # as in training, each average comes right after a step, which determines what is in the caches
            foreach_add_([tensor.data for tensor in way.tensors], self.gradients)
            way.before()

        prepare()
        way.run()
        off = max(float((t.data - mean).abs().max()) for t, mean in zip(way.tensors, self.means, strict=True))
        if not off < 1e-5:
            raise AssertionError(f"{name} does not produce the mean over the ranks: off by {off:.3g}")
        return Peer(name, way.run, prepare)


def compare(of: list[Shape], comm: Communicator, blocks: int) -> Report:
    """The average of parameters of these shapes; raises AssertionError for a peer that does not produce the mean."""
    task, roster = Task(of, comm), Roster(comm)
    for name, make in WAYS.items():
        roster.add(name, partial(task.peer, name, make))
    with torch.no_grad():  # as inside a step, where a round's average happens
        measured = measure(list(roster.peers.values()), comm, blocks)
    gloo.stop()
    title = f"one average over {comm.size} ranks of {size_in_words(of)}"
    return Report(title, measured, {"to bare": lambda name: BARE, "to hvdclip": lambda name: OURS}, roster.absent)


def _ours(task: Task, comm: Communicator) -> Way:
    params = task.parameters()
    ours = optimizer("celgc", params, comm=comm, lr=1.0, max_norm=1.0, interval=NEVER, drift=False)
    return Way(params, ours.synchronize, ours.step)


def _ours_on_mpi(task: Task) -> Way:
    worlds.mpi(task.comm)
    from hvdclip.comm.mpi import Mpi4py

    return _ours(task, Mpi4py())


def _bare(task: Task) -> Way:
    hvd = worlds.horovod()
    vector, parts = task.flat()
    return Way(parts, lambda: hvd.allreduce_(vector, name="bench.bare"))


def _one_after_another(task: Task) -> Way:
    hvd = worlds.horovod()
    tensors = [mine.clone() for mine in task.mine]

    def run() -> None:
        for i, tensor in enumerate(tensors):
            hvd.allreduce_(tensor, name=f"bench.turn.{i}")

    return Way(tensors, run)


def _asynchronous(task: Task) -> Way:
    hvd = worlds.horovod()
    tensors = [mine.clone() for mine in task.mine]

    def run() -> None:
        for handle in [hvd.allreduce_async_(tensor, name=f"bench.async.{i}") for i, tensor in enumerate(tensors)]:
            hvd.synchronize(handle)

    return Way(tensors, run)


def _grouped(task: Task) -> Way:
    hvd = worlds.horovod()
    tensors = [mine.clone() for mine in task.mine]
    return Way(tensors, lambda: hvd.grouped_allreduce_(tensors, name="bench.grouped"))


def _mpi(task: Task) -> Way:
    MPI = worlds.mpi(task.comm)
    world, (vector, parts) = MPI.COMM_WORLD.Dup(), task.flat()

    def run() -> None:
        world.Allreduce(MPI.IN_PLACE, vector.numpy())
        vector.mul_(1 / task.comm.size)

    return Way(parts, run)


def _gloo(task: Task) -> Way:
    gloo.start(task.comm)
    vector, parts = task.flat()

    def run() -> None:
        dist.all_reduce(vector)
        vector.mul_(1 / task.comm.size)

    return Way(parts, run)


def _periodic(task: Task) -> Way:
    gloo.start(task.comm)
    params = task.parameters()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a period of 1
        averager = PeriodicModelAverager(period=1)
    return Way(params, lambda: averager.average_parameters(params))


def _accelerate(task: Task) -> Way:
    try:
        from accelerate import Accelerator
        from accelerate.local_sgd import LocalSGD
    except ImportError as error:
        raise ImportError(f"{error}: pip install accelerate") from None
    gloo.start(task.comm)
    params = task.parameters()
    local_sgd = LocalSGD(Accelerator(cpu=True), nn.ParameterList(params), local_sgd_steps=1)
    return Way(params, local_sgd.step)


WAYS: dict[str, Callable[[Task], Way]] = {
    BARE: _bare,
    OURS: lambda task: _ours(task, task.comm),
    "hvdclip celgc on mpi4py": _ours_on_mpi,
    "Horovod, one tensor after another": _one_after_another,
    "Horovod, asynchronous": _asynchronous,
    "Horovod, grouped": _grouped,
    "mpi4py, flat vector in place": _mpi,
    "torch gloo, flat vector": _gloo,
    "torch PeriodicModelAverager": _periodic,
    "accelerate LocalSGD": _accelerate,
}
