"""What every communicator offers, and the ledger of what was communicated."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Tally:
    """Collectives of one purpose on this rank: how many, payload bytes handed over, seconds until they returned."""

    collectives: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Ledger:
    """What a rank communicated, by purpose: "round" for training; "setup", "evaluation", "final" for the rest."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = defaultdict(Tally)

    def __getitem__(self, purpose: str) -> Tally:
        return self._tallies[purpose]

    def purposes(self) -> list[str]:
        return sorted(self._tallies)

    @contextmanager
    def entry(self, purpose: str, collectives: int, payload: int) -> Iterator[None]:
        tally = self._tallies[purpose]
        start = time.perf_counter()
        yield
        tally.seconds += time.perf_counter() - start
        tally.collectives += collectives
        tally.bytes += payload


class Communicator(ABC):
    """N ranks that meet in collectives, in the same order on all ranks; `rank` is this one of `size`."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1

    def __init__(self) -> None:
        self.ledger = Ledger()

    @abstractmethod
    def average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> None:
        """Replace each contiguous tensor by its mean over the ranks, in place: one collective a tensor."""

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
    """Ranks that really exchange messages, each of which is entered in the ledger."""

    def average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> None:
        with self._entry(purpose, tensors):
            self._average_(tensors, purpose)

    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        if tensors:
            with self._entry(purpose, tensors):
                self._broadcast_(tensors, purpose)

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        with self._entry(purpose, []):
            return self._gather(value, purpose)

    def _entry(self, purpose: str, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        payload = sum(t.numel() * t.element_size() for t in tensors)
        return self.ledger.entry(purpose, max(1, len(tensors)), payload)

    @abstractmethod
    def _average_(self, tensors: Sequence[Tensor], purpose: str) -> None: ...

    @abstractmethod
    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None: ...

    @abstractmethod
    def _gather(self, value: Any, purpose: str) -> list[Any]: ...
