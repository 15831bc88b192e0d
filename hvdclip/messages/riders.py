"""Riders: small things that travel in the tail of a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Rider(Protocol):
    """Something small that travels in the tail of a message.

    A rider that is `on_host` writes and reads the host's numbers: its tail is there, wherever the message is.
    """

    size: int
    on_host: bool

    def pack(self, tail: Tensor) -> None:
        """Write `size` floats into the tail before it is averaged."""

    def unpack(self, tail: Tensor) -> None:
        """Read their means over the ranks."""


class Riders:
    """Several riders, one after another in one tail of `size` floats.

    The numbers of those on the host are last. They go to a device, and come back, in one copy each, through memory that
    a device can reach by itself. The host waits once: for those that come back.
    """

    def __init__(self, riders: Sequence[Rider]):
        self._riders = sorted((rider for rider in riders if rider.size), key=lambda rider: rider.on_host)
        self._sizes = [rider.size for rider in self._riders]
        self.size = sum(self._sizes)
        self._tail: Tensor | None = None
        self._places: tuple[Tensor, ...] = ()
        self._staged: Staged | None = None  # if the tail is on a device

    def pack(self, tail: Tensor) -> None:
        for rider, place in zip(self._riders, self._split(tail), strict=True):
            rider.pack(place)
        if self._staged is not None:
            self._staged.send(tail)

    def unpack(self, tail: Tensor) -> None:
        places = self._split(tail)
        if self._staged is not None:
            self._staged.fetch(tail)
        for rider, place in zip(self._riders, places, strict=True):
            if rider.on_host and self._staged is not None:
                self._staged.wait()
            rider.unpack(place)

    def _split(self, tail: Tensor) -> tuple[Tensor, ...]:
        # most messages have one tail for all rounds, and new views would cost time
        if tail is not self._tail:
            self._tail, self._places = tail, tail.split(self._sizes)
            if not tail.is_cpu and any(rider.on_host for rider in self._riders):
                self._places = self._with_staged(tail)
        return self._places

    def _with_staged(self, tail: Tensor) -> tuple[Tensor, ...]:
        """The places of the riders; those of riders on the host are in the host's memory."""
        first = [rider.on_host for rider in self._riders].index(True)
        sizes = self._sizes[first:]
        if self._staged is None:
            self._staged = Staged(sum(sizes), tail)
        return *self._places[:first], *self._staged.numbers.split(sizes)


class Staged:
    """The host's copy of the end of a tail, in pinned memory: CUDA copies to and from it without a wait."""

    def __init__(self, size: int, tail: Tensor):
        self._by_itself = tail.is_cuda
        self.numbers = torch.zeros(size, dtype=tail.dtype, pin_memory=self._by_itself)
        self._arrived: torch.cuda.Event | None = None  # if the arrival is not known yet

    def send(self, tail: Tensor) -> None:
        tail[-len(self.numbers) :].copy_(self.numbers, non_blocking=self._by_itself)

    def fetch(self, tail: Tensor) -> None:
        self.numbers.copy_(tail[-len(self.numbers) :], non_blocking=self._by_itself)
        if self._by_itself:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tail.device))

    def wait(self) -> None:
        """Wait for what has been fetched."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
