"""What every communicator offers, and the ledger of what was communicated."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hvdclip.comm import pieces
from hvdclip.comm.watch import watch

Result = TypeVar("Result")


@dataclass
class Tally:
    """Collectives of one purpose on this rank: how many, payload bytes sent, seconds until they returned.

    `longest` is the longest time, in seconds, from the end of the previous collective to the end of one of these.
    """

    collectives: int = 0
    bytes: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class Pending(NamedTuple):
    """A collective that this rank waits in, and the seconds from the end of the previous one until it began to wait.

    `failed` says that an error has ended the wait.
    """

    purpose: str
    worked: float
    failed: bool = False


class Cost(NamedTuple):
    """What one exchange cost this rank: payload bytes sent, seconds waited."""

    bytes: int = 0
    seconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.seconds + other.seconds)


Waiting = Callable[[], tuple[Result, Cost]]
"""Waits for the end of a collective that has been started; returns its result and what it cost."""

Reduce = Callable[[Tensor], Tensor]
"""Makes one row from several of the same width and dtype."""


class Ledger:
    """What a rank communicated, by purpose: "round" for training; "setup", "evaluation", "final" for the rest.

    `pending` is the collective that it waits in now, or in which an error has ended the wait.
    """

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = defaultdict(Tally)
        self._start = self._end = time.perf_counter()
        self.seconds = 0.0  # for all purposes
        self.pending: Pending | None = None

    def __getitem__(self, purpose: str) -> Tally:
        return self._tallies[purpose]

    def purposes(self) -> list[str]:
        return sorted(self._tallies)

    def begin(self, purpose: str) -> None:
        """This rank begins to wait; waits do not nest."""
        self._start = time.perf_counter()
        self.pending = Pending(purpose, self._start - self._end)

    def fail(self) -> None:
        """An error has ended the wait that began last."""
        if self.pending is not None:
            self.pending = self.pending._replace(failed=True)

    @contextmanager
    def starting(self, purpose: str) -> Iterator[None]:
        """Inside, a collective is started; if other ranks have ended already, it fails here, before the wait."""
        try:
            yield
        except RuntimeError:
            self.begin(purpose)
            self.fail()
            raise

    @contextmanager
    def waiting(self, purpose: str) -> Iterator[None]:
        """Inside, this rank waits; an error inside counts as an error of the wait. Call `end` afterwards."""
        self.begin(purpose)
        try:
            yield
        except BaseException:
            self.fail()
            raise

    def end(self, purpose: str, collectives: int, payload: int) -> Cost:
        """The wait that began last is over; record it."""
        end, tally = time.perf_counter(), self._tallies[purpose]
        seconds = end - self._start
        tally.longest = max(tally.longest, end - self._end)
        tally.seconds += seconds
        tally.collectives += collectives
        tally.bytes += payload
        self.seconds += seconds
        self.pending, self._end = None, end
        return Cost(payload, seconds)


class Communicator(ABC):
    """N ranks that meet in collectives, in the same order on all ranks; `rank` is this one of `size`."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    timeout: float | None = None  # set by watch()

    @property
    def has_ring(self) -> bool:
        """Whether ring_average_ works here."""
        return True

    @property
    def gpus_go_by(self) -> str:
        """How tensors of a GPU reach the other ranks, in words."""
        return "copies in the host's memory"

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._names = itertools.count()

    def new_name(self) -> str:
        """A name that no other call returns; a rank's n-th call returns the same name on all ranks."""
        return str(next(self._names))

    def watch(self, timeout: float | None) -> None:
        """End this process with an explanation if it waits longer than so many seconds in one collective.

        None, the initial value, lets it wait forever. Raises ValueError for values that are not above 0. Simulated
        ranks, which exist only in this process, are not watched.
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; allowed: seconds above 0, or None for no limit")
        self.timeout = timeout

    def take_gpus(self, shared: bool) -> None:  # noqa: B027  (not all have something to do)
        """Prepare for tensors of GPUs; `shared` says that ranks share a GPU. All ranks call it with the same value.

        ValueError if the ranks cannot exchange such tensors.
        """

    def average_(self, tensors: Sequence[Tensor], purpose: str = "round", name: str = "") -> Cost:
        """Replace each contiguous tensor by its mean over the ranks, in place: one collective per tensor."""
        return self.start_average_(tensors, purpose, name, meanwhile=False)()[1]

    @abstractmethod
    def start_average_(
        self, tensors: Sequence[Tensor], purpose: str = "round", name: str = "", meanwhile: bool = True
    ) -> Waiting[None]:
        """Start average_; collectives that are under way at the same time need different names.

        `meanwhile` says that this rank has something else to do before it waits; otherwise it may start when it waits.
        """

    @abstractmethod
    def start_gather(self, tensor: Tensor, purpose: str = "round", name: str = "") -> Waiting[list[Tensor]]:
        """The contiguous tensors of all ranks, equal in shape and dtype, in the order of ranks: one collective."""

    @abstractmethod
    def start_reduction(
        self, rows: Tensor, reduce: Reduce, purpose: str = "round", name: str = ""
    ) -> Waiting[list[Tensor]]:
        """Row j of this rank goes to rank j; `reduce` makes one row from those that this rank receives, in their order.

        The result is the rows that all ranks have made: an all-to-all and an all-gather, both while this rank
        continues, if possible; `reduce` then runs in another thread.
        """

    @abstractmethod
    def node(self) -> Communicator:
        """The ranks on this rank's host, which can only average, and write into the same ledger; all ranks call it."""

    @abstractmethod
    def ring_average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> Cost:
        """Replace each tensor by the mean of this rank's and its ring neighbours', in place, without a collective.

        The neighbours of rank i are i-1 and i+1 modulo the number of ranks; with two ranks each has one neighbour.
        """

    @abstractmethod
    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        """Replace each tensor by rank 0's, in place."""

    @abstractmethod
    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        """The picklable values of all ranks, in the order of ranks; meant for a few words, not for tensors."""

    def sum(self, numbers: Sequence[float], purpose: str = "evaluation") -> list[float]:
        """The numbers summed over the ranks, in float64."""
        total = torch.tensor(numbers, dtype=torch.float64)
        self.average_([total], purpose)
        return [number * self.size for number in total.tolist()]


class Network(Communicator):
    """Ranks that really exchange messages; each message is entered in the ledger.

    `share_memory` says that all of them are on one machine and send through its memory.
    """

    share_memory = False

    def watch(self, timeout: float | None) -> None:
        super().watch(timeout)
        watch(self.ledger, self.rank, timeout)

    def start_average_(
        self, tensors: Sequence[Tensor], purpose: str = "round", name: str = "", meanwhile: bool = True
    ) -> Waiting[None]:
        # steps that go on meanwhile need the caches themselves
        by_caches = self.share_memory and not meanwhile and all(t.device.type == "cpu" for t in tensors)
        most = pieces.CACHED if by_caches else pieces.MOST
        with self.ledger.starting(purpose):
            finish = self._start_average_(tensors, _full(purpose, name), meanwhile, most)
        return self._waiting(
            purpose, max(1, sum(pieces.number_of(t.numel(), most=most) for t in tensors)), tensors, finish
        )

    def start_gather(self, tensor: Tensor, purpose: str = "round", name: str = "") -> Waiting[list[Tensor]]:
        with self.ledger.starting(purpose):
            finish = self._start_gather(tensor, _full(purpose, name))
        return self._waiting(purpose, pieces.number_of(tensor.numel(), self.size), [tensor], finish)

    def start_reduction(
        self, rows: Tensor, reduce: Reduce, purpose: str = "round", name: str = ""
    ) -> Waiting[list[Tensor]]:
        with self.ledger.starting(purpose):
            finish = self._start_reduction(rows, reduce, _full(purpose, name))
        return self._waiting(purpose, 2 * pieces.number_of(rows[0].numel(), self.size), [rows, rows[0]], finish)

    def ring_average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> Cost:
        neighbours = sorted({(self.rank - 1) % self.size, (self.rank + 1) % self.size} - {self.rank})
        payload = _bytes(tensors) * len(neighbours)
        with self.ledger.waiting(purpose):
            for tensor in tensors:
                tensor.copy_(torch.stack([tensor, *self._exchange(tensor, neighbours)]).mean(dim=0))
        return self.ledger.end(purpose, 0, payload)

    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        if tensors:
            with self.ledger.waiting(purpose):
                self._broadcast_(tensors, purpose)
            self.ledger.end(purpose, sum(pieces.number_of(t.nbytes) for t in tensors), _bytes(tensors))

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        with self.ledger.waiting(purpose):
            values = self._gather(value, purpose)
        self.ledger.end(purpose, 1, 0)
        return values

    def _waiting(
        self, purpose: str, collectives: int, tensors: Sequence[Tensor], finish: Callable[[], Result]
    ) -> Waiting[Result]:
        # counted while the message may be under way: afterwards it would cost a round on small tensors time
        payload = _bytes(tensors)

        def wait() -> tuple[Result, Cost]:
            self.ledger.begin(purpose)
            try:
                result = finish()
            except BaseException:
                self.ledger.fail()
                raise
            return result, self.ledger.end(purpose, collectives, payload)

        return wait

    @abstractmethod
    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        """As start_average_, by calls that average at most `most` entries."""

    @abstractmethod
    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]: ...

    @abstractmethod
    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]: ...

    @abstractmethod
    def _exchange(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        """Send the tensor to the neighbours and return theirs, in their order."""

    @abstractmethod
    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None: ...

    @abstractmethod
    def _gather(self, value: Any, purpose: str) -> list[Any]: ...


@contextmanager
def in_bytes(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor as bytes, because no library knows every dtype; changes to them are changes to the tensor."""
    sent = tensor.detach().contiguous().flatten().view(torch.uint8)
    yield sent
    tensor.copy_(sent.view(tensor.dtype).view(tensor.shape))


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def _full(purpose: str, name: str) -> str:
    return f"{purpose}.{name}" if name else purpose
