"""N ranks inside one process: they run one at a time, switch only at collectives, and really average."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hvdclip.comm.base import Communicator, Network, Reduce
from hvdclip.torch_private import foreach_copy_

Result = TypeVar("Result")


def simulate(fn: Callable[[Communicator], Result], ranks: int, ranks_per_node: int | None = None) -> list[Result]:
    """Run fn(comm) as `ranks` ranks in this process and return their results in the order of ranks.

    `ranks_per_node` ranks are on each node; by default all are on one.

    Deterministic: rank 0 runs to its first collective, then rank 1, and so on; sums are taken in the order of ranks.
    Each rank has its own Python, NumPy and torch (CPU) random state, which starts as the caller's. An exception in one
    rank ends all of them and is raised here; ranks that meet in different collectives raise a RuntimeError.
    """
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}; allowed: integers from 1")
    ranks_per_node = ranks_per_node or ranks
    if ranks_per_node < 1 or ranks % ranks_per_node:
        raise ValueError(f"ranks_per_node is {ranks_per_node}; allowed: divisors of ranks, {ranks}")
    return _World(ranks, ranks_per_node).run(fn)


class _Aborted(BaseException):
    """Unwinds a rank because another one failed."""


class _World:
    def __init__(self, size: int, ranks_per_node: int):
        self.size, self.ranks_per_node = size, ranks_per_node
        self.turns = [threading.Semaphore(0) for _ in range(size)]
        # (the collective that a rank has entered, its payload)
        self.calls: list[tuple[Any, Any] | None] = [None] * size
        self.random_states = [_random_state()] * size
        self.failure: BaseException | None = None
        self.results: list[Any] = [None] * size

    def run(self, fn: Callable[[Communicator], Any]) -> list[Any]:
        caller = _random_state()
        threads = [threading.Thread(target=self._rank, args=(fn, rank), daemon=True) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        self.turns[0].release()
        try:
            for thread in threads:
                thread.join()
        except BaseException as interrupt:
            self._fail(interrupt)
            raise
        finally:
            _set_random_state(caller)
        if self.failure is not None:
            raise self.failure
        return self.results

    def meet(self, rank: int, kind: Any, payload: Any) -> None:
        """Enter a collective; returns when all ranks have entered it and `finish` has been done for all of them."""
        self.calls[rank] = (kind, payload)
        self._yield(rank)

    def _rank(self, fn: Callable[[Communicator], Any], rank: int) -> None:
        try:
            self._await_turn(rank)
            self.results[rank] = fn(Simulated(self, rank))
            self.calls[rank] = ("the end", None)
            self._pass_on(rank)
        except _Aborted:
            pass
        except BaseException as error:
            # like add_note, which Python 3.10 lacks
            notes = [*getattr(error, "__notes__", []), f"in simulated rank {rank} of {self.size}"]
            error.__notes__ = notes  # type: ignore[attr-defined]
            self._fail(error)

    def _yield(self, rank: int) -> None:
        self.random_states[rank] = _random_state()
        self._pass_on(rank)
        self._await_turn(rank)

    def _await_turn(self, rank: int) -> None:
        self.turns[rank].acquire()
        if self.failure is not None:
            raise _Aborted
        _set_random_state(self.random_states[rank])

    def _pass_on(self, rank: int) -> None:
        if rank == self.size - 1:
            self._complete()
        self.turns[(rank + 1) % self.size].release()

    def _complete(self) -> None:
        kinds = [call[0] for call in self.calls if call is not None]
        if any(kind != kinds[0] for kind in kinds):
            met = "; ".join(f"rank {rank}: {kind}" for rank, kind in enumerate(kinds))
            raise RuntimeError(f"simulated ranks do not meet in the same collective: {met}")
        payloads = [call[1] for call in self.calls if call is not None]
        operation = kinds[0][0]
        if operation == "average":
            width = kinds[0][1]
            for start in range(0, self.size, width):
                _average(payloads[start : start + width])
        elif operation == "broadcast":
            for tensors in payloads[1:]:
                foreach_copy_(tensors, payloads[0])
        elif operation == "gather":
            gathered = [value for (value,) in payloads]
            for payload in payloads:
                payload[:] = gathered

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        for turn in self.turns:
            turn.release()


class Simulated(Network):
    """One of N simulated ranks; made by hvdclip.simulate."""

    def __init__(self, world: _World, rank: int):
        super().__init__()
        self._world, self.rank, self.size = world, rank, world.size
        self.local_rank, self.local_size = rank % world.ranks_per_node, world.ranks_per_node

    def watch(self, timeout: float | None) -> None:
        Communicator.watch(self, timeout)  # ranks that do not meet raise an error at once

    def node(self) -> Communicator:
        return _Node(self, self._world)

    # ranks switch only when they wait

    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        return lambda: self._meet_to_average(tensors, name, self._world.size)

    def _meet_to_average(self, tensors: Sequence[Tensor], name: str, width: int) -> None:
        self._world.meet(self.rank, ("average", width, name, _shapes(tensors)), [t.detach() for t in tensors])

    def _start_gather(self, tensor: Tensor, name: str) -> Callable[[], list[Tensor]]:
        mine = tensor.clone()
        return lambda: self._meet_to_gather(mine, ("gather", name, _shapes([mine])))

    def _start_reduction(self, rows: Tensor, reduce: Reduce, name: str) -> Callable[[], list[Tensor]]:
        mine, kind = rows.clone(), ("gather", name, "all to all", _shapes([rows]))

        def finish() -> list[Tensor]:
            shards = torch.stack([sent[self.rank] for sent in self._meet_to_gather(mine, kind)])
            return self._start_gather(reduce(shards), name)()

        return finish

    def _exchange(self, tensor: Tensor, neighbours: Sequence[int]) -> list[Tensor]:
        everyone = self._start_gather(tensor, "neighbours")()
        return [everyone[n] for n in neighbours]

    def _meet_to_gather(self, value: Any, kind: tuple[Any, ...]) -> list[Any]:
        payload = [value]
        self._world.meet(self.rank, kind, payload)
        return payload

    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        self._world.meet(self.rank, ("broadcast", purpose, _shapes(tensors)), [t.detach() for t in tensors])

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return self._meet_to_gather(value, ("gather", purpose))


class _Node(Simulated):
    """The simulated ranks of one node, for averages only: all nodes take theirs at the same time."""

    def __init__(self, whole: Simulated, world: _World):
        super().__init__(world, whole.rank)
        self.ledger, self.size = whole.ledger, world.ranks_per_node

    def _start_average_(self, tensors: Sequence[Tensor], name: str, meanwhile: bool, most: int) -> Callable[[], None]:
        return lambda: self._meet_to_average(tensors, name, self.size)


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
    return tuple((tuple(t.shape), t.dtype) for t in tensors)


def _average(payloads: list[list[Tensor]]) -> None:
    for tensors in zip(*payloads, strict=True):
        mean = tensors[0].clone()
        for tensor in tensors[1:]:
            mean += tensor
        mean /= len(tensors)
        for tensor in tensors:
            tensor.copy_(mean)


def _random_state() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: tuple[Any, Any, Tensor]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
