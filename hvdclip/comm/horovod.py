"""Real ranks, by Horovod."""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from hvdclip.comm.base import Communicator, Network, Reduce, in_bytes
from hvdclip.comm.gpus import ByHost, Direct
from hvdclip.comm.pieces import all_to_all, gather_pickled, number_of, pieces, start_to_gather
from hvdclip.comm.single import SingleRank

END_S = 60.0  # within this time the slowest rank should end
_communicators: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)  # by process set


def begin_names() -> None:
    """Name collectives like a process that has just started, so that old and new ranks can meet."""
    _communicators.clear()


class Horovod(Network):
    """The ranks of an initialised Horovod, or those of one of its process sets, which must contain this rank.

    With `host_staging` a GPU's tensors pass through the host's memory, which is slow and works with any build of
    Horovod. Raises RuntimeError before hvd.init(), ValueError for a process set that hvd.init() was not given and on
    ranks outside of the set.
    """

    def __init__(self, process_set: Any = None, host_staging: bool = False) -> None:
        super().__init__()
        if not hvd.is_initialized():
            raise RuntimeError("Horovod is not initialised: call horovod.torch.init() first")
        self.set = hvd.global_process_set if process_set is None else _checked(process_set)
        # Two optimizers of one process have different names for what may be under way at the same time. Ranks may be in
        # different numbers of sets, so each set numbers its own.
        self.prefix = f"hvdclip.{self.set.process_set_id}.{next(_communicators[self.set.process_set_id])}"
        self.rank, self.size = self.set.rank(), self.set.size()
        self.way: Direct | ByHost = ByHost() if host_staging else Direct(bool(hvd.cuda_built() or hvd.rocm_built()))
        # among all ranks of the host, since ranks of other sets share its GPUs and cores too
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.share_memory = hvd.mpi_enabled() and hvd.local_size() == hvd.size()
        # finishes what consists of several collectives, while the rank takes its steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="horovod")

    def node(self) -> Communicator:
        """As elsewhere; raises RuntimeError if Horovod was started without process sets, and in a process set."""
        if self._is_part:
            raise RuntimeError("averages inside a node need all ranks of Horovod; allowed on a process set: none")
        hosts = self.gather(socket.gethostname())
        mine: Communicator = self
        for host in dict.fromkeys(hosts):
            ranks = tuple(rank for rank, name in enumerate(hosts) if name == host)
            # every rank must take part in making every set
            chosen = _process_set(ranks) if 1 < len(ranks) < self.size else None
            if self.rank in ranks and len(ranks) < self.size:
                mine = SingleRank() if chosen is None else _Node(self, chosen, ranks)
        return mine

    def take_gpus(self, shared: bool) -> None:
        if shared and hvd.nccl_built():
            self.way = ByHost()
        self.way.check()

    @property
    def gpus_go_by(self) -> str:
        if isinstance(self.way, ByHost):
            return "copies in the host's memory"
        return "NCCL" if hvd.nccl_built() else "Horovod's copies in the host's memory"

    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        sent = self.way.take(tensors)
        finish = self._start_to_average(sent, name, meanwhile, most)

        def wait() -> None:
            finish()
            self.way.give_back(sent, tensors)

        return wait

    def _start_to_average(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        # If names repeat from round to round, Horovod answers from its cache instead of negotiating again.
        how = {"op": hvd.Average, "process_set": self.set}
        full = f"{self.prefix}.{name}"
        parts = [part for tensor in tensors for part in pieces(tensor, most)]
        # not as a group: Horovod may join its tensors to one that is too long
        if len(parts) > len(tensors) or number_of(sum(t.numel() for t in tensors)) > 1:
            if not meanwhile:
                return lambda: self._average_in_turn(parts, full)
            handles = [hvd.allreduce_async_(part, name=_numbered(full, i), **how) for i, part in enumerate(parts)]
            return lambda: _finish(handles)
        if len(tensors) == 1:
            handle = hvd.allreduce_async_(tensors[0], name=full, **how)
        else:
            handle = hvd.grouped_allreduce_async_(list(tensors), name=full, **how)
        return lambda: hvd.synchronize(handle)

    def _average_in_turn(self, parts: Sequence[Tensor], name: str) -> None:
        """One part after another: Horovod would join parts that it has at the same time."""
        for i, part in enumerate(parts):
            hvd.allreduce_(part, name=_numbered(name, i), op=hvd.Average, process_set=self.set)

    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]:
        def start(piece: Tensor, number: int) -> Callable[[], list[Tensor]]:
            full = _numbered(f"{self.prefix}.{name}.gather", number)
            handle = hvd.allgather_async(piece[None], name=full, process_set=self.set)
            return lambda: list(hvd.synchronize(handle))

        [sent] = self.way.take([tensor])
        finish = start_to_gather(sent, self.size, start)
        return lambda: [of_rank.to(tensor.device) for of_rank in finish()]

    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]:
        [sent] = self.way.take([rows])
        return self._thread.submit(self._reduction, sent, rows.device, reduce, name).result

    def _reduction(self, rows: Tensor, device: torch.device, reduce: Reduce, name: str) -> list[Tensor]:
        def exchanged(piece: Tensor, number: int) -> Tensor:
            full = _numbered(f"{self.prefix}.{name}.all_to_all", number)
            handle = hvd.alltoall_async(piece, name=full, process_set=self.set)
            return hvd.synchronize(handle)[0]  # the other value: how many rows came from each rank

        return self._start_gather(reduce(all_to_all(rows, exchanged).to(device)), name)()

    def _exchange(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        from hvdclip.comm.mpi import swap

        return swap(self._mpi, tensor, neighbours)

    @property
    def has_ring(self) -> bool:
        return self.size == 1 or (hvd.mpi_enabled() and hvd.mpi_threads_supported())

    @cached_property
    def _mpi(self) -> Any:
        """The ranks as mpi4py knows them, for messages outside of Horovod."""
        from mpi4py import MPI

        # they may be a part of MPI's world (hvd.init(comm=...), a process set), in another order
        places = self._gather(MPI.COMM_WORLD.rank, "places")
        ranks = MPI.COMM_WORLD.Create_group(MPI.COMM_WORLD.group.Incl(places))
        _meet_at_end(self.set)
        return ranks

    @property
    def _is_part(self) -> bool:
        return self.set.process_set_id != hvd.global_process_set.process_set_id

    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        first = self.set.ranks[0] if self._is_part else 0  # Horovod needs its number in the world
        for i, tensor in enumerate(tensors):
            with in_bytes(tensor) as whole:
                [sent] = self.way.take([whole])
                for j, piece in enumerate(pieces(sent)):
                    name = _numbered(f"{self.prefix}.{purpose}.broadcast.{i}", j)
                    hvd.broadcast_(piece, root_rank=first, name=name, process_set=self.set)
                self.way.give_back([sent], [whole])

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return gather_pickled(value, lambda tensor, what: self._start_gather(tensor, f"{purpose}.{what}")())


class _Node(Horovod):
    """The ranks of one host as a process set, for averages."""

    def __init__(self, whole: Horovod, process_set: Any, ranks: tuple[int, ...]):
        Network.__init__(self)  # its own number would be assigned on some ranks only
        self.prefix, self.ledger, self.set, self.way = whole.prefix, whole.ledger, process_set, whole.way
        self.share_memory = hvd.mpi_enabled()
        self.rank, self.size = ranks.index(whole.rank), len(ranks)


def mpi_world() -> int:
    """The size of the world of Horovod's MPI, of which Horovod's ranks may be a part; 1 without MPI."""
    if not hvd.mpi_enabled():
        return 1
    # not by mpi4py, which may have found another MPI
    library, size = hvd.mpi_ops._basics.MPI_LIB_CTYPES, ctypes.c_int(1)
    try:  # Open MPI
        world: Any = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "ompi_mpi_comm_world")))
    except ValueError:  # MPICH and its derivatives
        world = ctypes.c_int(0x44000000)
    library.MPI_Comm_size(world, ctypes.byref(size))
    return size.value


@functools.cache
def _meet_at_end(process_set: Any) -> None:
    """Make the process wait, at its end, until the other ranks have ended too: for messages outside of Horovod.

    The first rank to end shuts Horovod down, and with it MPI, on all ranks: a rank that was still sending would die. No
    rank waits longer than END_S, nor after an error, for which others may be waiting.
    """

    def meet() -> None:
        if not hvd.is_initialized() or hasattr(sys, "last_value"):
            return
        name, deadline = f"hvdclip.{process_set.process_set_id}.end", time.monotonic() + END_S
        handle = hvd.allreduce_async(torch.zeros(1), name=name, process_set=process_set)
        # not by a blocking wait, which could not be ended; nor by MPI, which may be shut down as soon as all are here
        while not hvd.poll(handle) and time.monotonic() < deadline:
            time.sleep(0.01)

    atexit.register(meet)  # runs before hvd.shutdown, which was registered earlier


def _checked(process_set: Any) -> Any:
    if process_set.process_set_id is None:
        raise ValueError(
            f"comm is a process set of ranks {process_set.ranks} that Horovod does not have: pass it to "
            "hvd.init(process_sets=[...]) first"
        )
    if hvd.rank() not in process_set.ranks:
        raise ValueError(
            f"comm is the process set of ranks {', '.join(map(str, process_set.ranks))}, which rank {hvd.rank()} is "
            "not in; pass each rank the set that it is in"
        )
    return process_set


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
            "averages inside a node need Horovod's process sets: start it with hvd.init(process_sets='dynamic'), or "
            "set HOROVOD_DYNAMIC_PROCESS_SETS=1 before hvd.init()"
        )
    return hvd.add_process_set(list(ranks))


def initialise(process_sets: bool = False, fusion: bool = True, host_staging: bool = False) -> Horovod:
    """Start Horovod in this process, if necessary, and return its communicator; process sets are for node().

    Without fusion each message is summed by itself, unless the environment says otherwise. `host_staging` is as in
    Horovod().
    """
    if not hvd.is_initialized():
        if not fusion:
            os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        hvd.init(process_sets="dynamic" if process_sets else None)
    return Horovod(host_staging=host_staging)
