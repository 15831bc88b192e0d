"""Real ranks, by mpi4py alone."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from hvdclip.comm.base import Communicator, Network, Reduce, in_bytes
from hvdclip.comm.pieces import all_to_all, gather_pickled, pieces, start_to_gather


class Mpi4py(Network):
    """The ranks of an MPI communicator, the world by default; tensors of a GPU pass through the host's memory.

    Raises RuntimeError for an MPI that does not allow calls from threads.
    """

    def __init__(self, mpi: MPI.Intracomm | None = None) -> None:
        super().__init__()
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError("this MPI does not allow calls from several threads: use comm.backend: horovod")
        self._mpi = (mpi or MPI.COMM_WORLD).Dup()
        _in_use.append(self._mpi)
        _end_together()
        self.rank, self.size = self._mpi.rank, self._mpi.size
        hosts = self._mpi.allgather(socket.gethostname())
        here = [rank for rank, host in enumerate(hosts) if host == hosts[self.rank]]
        self.local_rank, self.local_size = here.index(self.rank), len(here)
        self._colour, self.share_memory = here[0], len(here) == self.size
        # One thread does what this rank does not wait for, in order; later calls wait for their turn, so that all
        # ranks meet in the same collectives.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mpi")
        self._last: Future[Any] | None = None

    def node(self) -> Communicator:
        node = Mpi4py(self._now(self._mpi.Split, self._colour, self.rank))
        node.ledger = self.ledger
        return node

    def _now(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Wait for the call; this thread makes it itself if the other one is idle, which is faster.

        As with Horovod, a KeyboardInterrupt arrives only when it returns.
        """
        if self._last is None or self._last.done():
            return call(*arguments)
        return self._later(call, *arguments)()

    def _later(self, call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        self._last = self._thread.submit(call, *arguments)
        return self._last.result

    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        if meanwhile:
            return self._later(self._average, tensors, most)
        return lambda: self._now(self._average, tensors, most)

    def _average(self, tensors: Sequence[Tensor], most: int) -> None:
        for tensor in tensors:
            mine = tensor.detach().cpu()
            for piece in pieces(mine, most):
                self._mpi.Allreduce(MPI.IN_PLACE, piece.numpy())
                piece.div_(self.size)
            if tensor.device.type != "cpu":
                tensor.copy_(mine)

    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]:
        return self._later(self._all_gather, tensor)

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        mine = tensor.detach().cpu()
        everyone = start_to_gather(mine, self.size, lambda piece, number: lambda: self._all_gather_piece(piece))()
        return [of_rank.to(tensor.device) for of_rank in everyone]

    def _all_gather_piece(self, mine: Tensor) -> list[Tensor]:
        everyone = mine.new_empty((self.size, *mine.shape))
        self._mpi.Allgather(mine.numpy(), everyone.numpy())
        return list(everyone)

    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]:
        return self._later(lambda: self._all_gather(reduce(self._all_to_all(rows))))

    def _all_to_all(self, rows: Tensor) -> Tensor:
        def exchanged(mine: Tensor, number: int) -> Tensor:
            theirs = torch.empty_like(mine)
            self._mpi.Alltoall(mine.numpy(), theirs.numpy())
            return theirs

        return all_to_all(rows.detach().cpu(), exchanged).to(rows.device)

    def _exchange(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        return self._now(self._swap, tensor, neighbours)

    def _swap(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        return swap(self._mpi, tensor, neighbours)

    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        for tensor in tensors:
            with in_bytes(tensor) as sent:
                mine = sent.cpu()
                for piece in pieces(mine):
                    self._now(self._mpi.Bcast, piece.numpy())
                sent.copy_(mine)

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return self._now(gather_pickled, value, lambda tensor, what: self._all_gather(tensor))


_in_use: list[MPI.Intracomm] = []


@functools.cache
def _end_together() -> None:
    """Let an exception that ends this rank end the others too: otherwise MPI would wait for them, and they for it."""
    show = sys.excepthook

    def end(*error: Any) -> None:
        show(*error)
        sys.stderr.flush()
        max(_in_use, key=lambda mpi: mpi.size).Abort(1)

    sys.excepthook = end


def swap(mpi: MPI.Intracomm, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
    """Send the tensor to each of the neighbours and return theirs."""
    mine = tensor.detach().cpu().contiguous()
    theirs = [torch.empty_like(mine) for _ in neighbours]
    # between two ranks messages keep their order, and so do pieces
    requests = [
        mpi.Irecv(piece.numpy(), source=n)
        for n, buffer in zip(neighbours, theirs, strict=True)
        for piece in pieces(buffer)
    ]
    requests += [mpi.Isend(piece.numpy(), dest=n) for n in neighbours for piece in pieces(mine)]
    MPI.Request.Waitall(requests)
    return [buffer.to(tensor.device) for buffer in theirs]
