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
        how = {"name": f"{self.prefix}.{name}", "op": hvd.Average, "process_set": self.set}
        if len(tensors) == 1:
            handle = hvd.allreduce_async_(tensors[0], **how)
        else:
            handle = hvd.grouped_allreduce_async_(list(tensors), **how)
        return lambda: hvd.synchronize(handle)

    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]:
        handle = hvd.allgather_async(tensor[None], name=f"{self.prefix}.{name}.gather", process_set=self.set)
        return lambda: list(hvd.synchronize(handle))

    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]:
        return self._thread.submit(self._reduction, rows, reduce, name).result

    def _reduction(self, rows: Tensor, reduce: Reduce, name: str) -> list[Tensor]:
        handle = hvd.alltoall_async(rows, name=f"{self.prefix}.{name}.all_to_all", process_set=self.set)
        shards = hvd.synchronize(handle)[0]  # beside how many rows came from each rank
        return self._start_gather(reduce(shards), name)()

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
                hvd.broadcast_(sent, root_rank=0, name=f"{self.prefix}.{purpose}.broadcast.{i}")

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return hvd.allgather_object(value, name=f"{self.prefix}.{purpose}.gather")


class _Node(Horovod):
    """The ranks of one host as a process set, for averages."""

    def __init__(self, whole: Horovod, process_set: Any, ranks: tuple[int, ...]):
        Network.__init__(self)  # a number of its own would be given on some ranks only
        self.prefix, self.ledger, self.set = whole.prefix, whole.ledger, process_set
        self.rank, self.size = ranks.index(whole.rank), len(ranks)


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
