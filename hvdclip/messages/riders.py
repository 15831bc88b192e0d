"""Riders: what is small and travels in the tail of a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Rider(Protocol):
    """Something small that travels in the tail of a message."""

    size: int

    def pack(self, tail: Tensor) -> None:
        """Write `size` floats into the tail before it is averaged."""

    def unpack(self, tail: Tensor) -> None:
        """Read their means over the ranks."""


class Riders:
    """Several riders, one after another in one tail of `size` floats."""

    def __init__(self, riders: Sequence[Rider]):
        self._riders = [rider for rider in riders if rider.size]
        self._sizes = [rider.size for rider in self._riders]
        self.size = sum(self._sizes)
        self._tail: Tensor | None = None
        self._places: tuple[Tensor, ...] = ()

    def pack(self, tail: Tensor) -> None:
        for rider, place in zip(self._riders, self._split(tail), strict=True):
            rider.pack(place)

    def unpack(self, tail: Tensor) -> None:
        for rider, place in zip(self._riders, self._split(tail), strict=True):
            rider.unpack(place)

    def _split(self, tail: Tensor) -> tuple[Tensor, ...]:
        # most messages have one tail for all rounds, and would feel the cost of views of it
        if tail is not self._tail:
            self._tail, self._places = tail, tail.split(self._sizes)
        return self._places
