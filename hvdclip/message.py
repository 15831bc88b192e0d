"""The message: all that a rank hands to one collective, contiguous per dtype, averaged in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hvdclip.comm import Communicator
from hvdclip.flat import Space


class Rider(Protocol):
    """Something small that travels in the tail of a message."""

    size: int

    def pack(self, tail: Tensor) -> None:
        """Write `size` floats into the tail before it is averaged."""

    def unpack(self, tail: Tensor) -> None:
        """Read their means over the ranks."""


class Message:
    """`vectors` vectors of a space, then the riders in the tail.

    float32 and float64 vectors lie in the message itself, so that averaging them needs no copy; float16 and bfloat16
    are averaged in float32 (Horovod sums no bfloat16, and float16 sums lose bits). The tail is float32 whatever the
    parameters are, except where all of them are float64: there it shares their one collective.
    """

    def __init__(self, space: Space, vectors: int, riders: Sequence[Rider], comm: Communicator):
        self.comm = comm
        self.riders = list(riders)
        wire_of = {dtype: torch.promote_types(dtype, torch.float32) for dtype in space.numel}
        tail_dtype = torch.float32 if torch.float32 in wire_of.values() else torch.float64
        sizes = dict.fromkeys(wire_of.values(), 0)
        for dtype, n in space.numel.items():
            sizes[wire_of[dtype]] += vectors * n
        tail_size = sum(rider.size for rider in self.riders)
        sizes[tail_dtype] += tail_size
        self.wires = {dtype: torch.zeros(n, dtype=dtype, device=space.device) for dtype, n in sizes.items()}

        used = dict.fromkeys(sizes, 0)
        self._staged: list[tuple[Tensor, Tensor]] = []
        self.vectors = []
        for _ in range(vectors):
            flats = {}
            for dtype, n in space.numel.items():
                wire = wire_of[dtype]
                flats[dtype] = self.wires[wire][used[wire] : used[wire] + n]
                used[wire] += n
                if dtype != wire:
                    half = torch.zeros(n, dtype=dtype, device=space.device)
                    self._staged.append((half, flats[dtype]))
                    flats[dtype] = half
            self.vectors.append(space.vector(flats))
        tail = self.wires[tail_dtype][used[tail_dtype] :]
        self._tails = list(zip(self.riders, tail.split([rider.size for rider in self.riders]), strict=True))

    def average(self, purpose: str = "round", riders: Sequence[Rider] | None = None) -> None:
        """Average vectors and riders (all of them, or those named) over the ranks: one collective a dtype."""
        tails = [(rider, tail) for rider, tail in self._tails if riders is None or rider in riders]
        for half, staged in self._staged:
            staged.copy_(half)
        for rider, tail in tails:
            rider.pack(tail)
        self.comm.average_(list(self.wires.values()), purpose)
        for half, staged in self._staged:
            half.copy_(staged)
        for rider, tail in tails:
            rider.unpack(tail)
