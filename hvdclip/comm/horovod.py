"""Real ranks, by Horovod."""

from __future__ import annotations

import functools
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import horovod.torch as hvd
from torch import Tensor

from hvdclip.comm.base import Communicator, Network, Reduce, in_bytes
from hvdclip.comm.pieces import all_to_all, gather_pickled, number_of, pieces, start_to_gather
from hvdclip.comm.single import SingleRank

_communicators = itertools.count()


def begin_names() -> None:
    """Name collectives as a process does that has just started, so that old and new ranks can meet."""
    global _communicators
    _communicators = itertools.count()


class Horovod(Network):
    """The ranks of an initialised Horovod; raises RuntimeError before hvd.init()."""

    def __init__(self) -> None:
        super().__init__()
        if not hvd.is_initialized():
            raise RuntimeError("Horovod is not initialised: call horovod.torch.init() first")
        # two optimizers of one process have different names for what may be under way at one time
        self.prefix = f"hvdclip.{next(_communicators)}"
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.set = hvd.global_process_set
        # goes on with what consists of several collectives, while the rank takes its steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="horovod")

    def node(self) -> Communicator:
        """As elsewhere; raises RuntimeError where Horovod was started without process sets."""
        hosts = self.gather(socket.gethostname())
        mine: Communicator = self
        for host in dict.fromkeys(hosts):
            ranks = tuple(rank for rank, name in enumerate(hosts) if name == host)
            # every rank takes part in making every set
            chosen = _process_set(ranks) if 1 < len(ranks) < self.size else None
            if self.rank in ranks and len(ranks) < self.size:
                mine = SingleRank() if chosen is None else _Node(self, chosen, ranks)
        return mine

    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool) -> Callable[[], None]:
        # Names that repeat from round to round let Horovod answer from its cache instead of negotiating anew.
        how = {"op": hvd.Average, "process_set": self.set}
        full = f"{self.prefix}.{name}"
        if number_of(sum(t.numel() for t in tensors)) > 1:
            # not as a group, whose tensors Horovod may join to one that is too long
            parts = itertools.chain.from_iterable(map(pieces, tensors))
            handles = [hvd.allreduce_async_(part, name=_numbered(full, i), **how) for i, part in enumerate(parts)]
            return lambda: _finish(handles)
        if len(tensors) == 1:
            handle = hvd.allreduce_async_(tensors[0], name=full, **how)
        else:
            handle = hvd.grouped_allreduce_async_(list(tensors), name=full, **how)
        return lambda: hvd.synchronize(handle)

    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]:
        def start(piece: Tensor, number: int) -> Callable[[], list[Tensor]]:
            full = _numbered(f"{self.prefix}.{name}.gather", number)
            handle = hvd.allgather_async(piece[None], name=full, process_set=self.set)
            return lambda: list(hvd.synchronize(handle))

        return start_to_gather(tensor, self.size, start)

    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]:
        return self._thread.submit(self._reduction, rows, reduce, name).result

    def _reduction(self, rows: Tensor, reduce: Reduce, name: str) -> list[Tensor]:
        def exchanged(piece: Tensor, number: int) -> Tensor:
            full = _numbered(f"{self.prefix}.{name}.all_to_all", number)
            handle = hvd.alltoall_async(piece, name=full, process_set=self.set)
            return hvd.synchronize(handle)[0]  # beside how many rows came from each rank

        return self._start_gather(reduce(all_to_all(rows, exchanged)), name)()

    def _exchange(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        from hvdclip.comm.mpi import swap

        return swap(self._mpi, tensor, neighbours)

    @property
    def has_ring(self) -> bool:
        return self.size == 1 or (hvd.mpi_enabled() and hvd.mpi_threads_supported())

    @cached_property
    def _mpi(self) -> Any:
        """The ranks as mpi4py knows them, for messages beside Horovod's own."""
        from mpi4py import MPI

        return MPI.COMM_WORLD.Dup()

    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        for i, tensor in enumerate(tensors):
            with in_bytes(tensor) as sent:
                for j, piece in enumerate(pieces(sent)):
                    hvd.broadcast_(piece, root_rank=0, name=_numbered(f"{self.prefix}.{purpose}.broadcast.{i}", j))

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return gather_pickled(value, lambda tensor, what: self._start_gather(tensor, f"{purpose}.{what}")())


class _Node(Horovod):
    """The ranks of one host as a process set, for averages."""

    def __init__(self, whole: Horovod, process_set: Any, ranks: tuple[int, ...]):
        Network.__init__(self)  # a number of its own would be given on some ranks only
        self.prefix, self.ledger, self.set = whole.prefix, whole.ledger, process_set
        self.rank, self.size = ranks.index(whole.rank), len(ranks)


def _numbered(name: str, number: int) -> str:
    """The name of a piece, by its number; the first one has the name of the whole."""
    return f"{name}.piece{number}" if number else name


def _finish(handles: Sequence[Any]) -> None:
    for handle in handles:
        hvd.synchronize(handle)


@functools.cache
def _process_set(ranks: tuple[int, ...]) -> Any:
    if os.environ.get("HOROVOD_DYNAMIC_PROCESS_SETS", "0") != "1":
        raise RuntimeError(
            "averages inside a node need Horovod's process sets: start it by hvd.init(process_sets='dynamic'), or set "
            "HOROVOD_DYNAMIC_PROCESS_SETS=1 before hvd.init()"
        )
    return hvd.add_process_set(list(ranks))


def initialise(process_sets: bool = False, fusion: bool = True) -> Horovod:
    """Start Horovod in this process, if need be, and return its communicator; process sets are for node().

    Without fusion each message is summed by itself, unless the environment says otherwise.
    """
    if not hvd.is_initialized():
        if not fusion:
            os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        hvd.init(process_sets="dynamic" if process_sets else None)
    return Horovod()
