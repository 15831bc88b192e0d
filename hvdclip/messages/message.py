"""The message: everything that a rank sends in one collective, contiguous per dtype, averaged in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hvdclip.comm import Communicator, Cost, Waiting
from hvdclip.flat import Space, Vector
from hvdclip.messages.riders import Rider, Riders
from hvdclip.torch_private import foreach_copy_, foreach_mul_


class Message:
    """A vector of each of `spaces`, then the riders in the tail.

    float32 and float64 vectors are in the message itself, so that averaging them needs no copy. float16 and bfloat16
    are averaged in float32 (Horovod does not sum bfloat16, and float16 sums lose bits). The tail is float32 whatever
    the parameters are, unless all of them are float64: then it shares their one collective.

    `weight` is this rank's share in the mean of the vectors, times the number of ranks; riders are not weighted.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        riders: Sequence[Rider],
        comm: Communicator,
        weight: float = 1.0,
        name: str = "",
    ):
        self.comm, self.weight, self.name = comm, weight, name
        self.cost = Cost()
        wire_of = {dtype: torch.promote_types(dtype, torch.float32) for space in spaces for dtype in space.numel}
        tail_dtype = torch.float32 if torch.float32 in wire_of.values() else torch.float64
        sizes, device = dict.fromkeys(wire_of.values(), 0), spaces[0].device
        for dtype, n in (pair for space in spaces for pair in space.numel.items()):
            sizes[wire_of[dtype]] += n
        self.riders = Riders(riders)
        sizes[tail_dtype] += self.riders.size
        self.wires = {dtype: torch.zeros(n, dtype=dtype, device=device) for dtype, n in sizes.items()}
        self._waiting: Waiting[None] = lambda: (None, Cost())

        used = dict.fromkeys(sizes, 0)
        self._staged: list[tuple[Tensor, Tensor]] = []
        self.vectors = []
        for space in spaces:
            flats = {}
            for dtype, n in space.numel.items():
                wire = wire_of[dtype]
                flats[dtype] = self.wires[wire][used[wire] : used[wire] + n]
                used[wire] += n
                if dtype != wire:
                    half = torch.zeros(n, dtype=dtype, device=device)
                    self._staged.append((half, flats[dtype]))
                    flats[dtype] = half
            self.vectors.append(space.vector(flats))
        self._bodies = [wire[: used[dtype]] for dtype, wire in self.wires.items()]
        self._tail = self.wires[tail_dtype][used[tail_dtype] :]

    def average(self, purpose: str = "round") -> None:
        """Average vectors and riders over the ranks: one collective per dtype."""
        self.start(purpose, meanwhile=False)
        self.wait()
        self.finish()

    def start(self, purpose: str = "round", meanwhile: bool = True) -> None:
        """Send vectors and riders, to be averaged while this rank continues, if it has something else to do."""
        self._stage()
        if self.weight != 1.0:
            foreach_mul_(self._bodies, self.weight)
        self.riders.pack(self._tail)
        self._waiting = self.comm.start_average_(self.received, purpose, self.name, meanwhile)

    def wait(self) -> None:
        _, self.cost = self._waiting()

    @property
    def received(self) -> list[Tensor]:
        """What has come back, after `wait`."""
        return list(self.wires.values())

    def restore(self, received: Sequence[Tensor]) -> None:
        """Act as if this had come back."""
        foreach_copy_(self.received, list(received))

    def finish(self) -> None:
        """Take the means, once `wait` is done."""
        self._unstage()
        self.riders.unpack(self._tail)

    def average_with_neighbours(self) -> None:
        """Average the vectors over this rank and its ring neighbours; riders do not take part."""
        self._stage()
        self.cost = self.comm.ring_average_(self._bodies)
        self._unstage()

    def _stage(self) -> None:
        for half, staged in self._staged:
            staged.copy_(half)

    def _unstage(self) -> None:
        for half, staged in self._staged:
            half.copy_(staged)


def mean_over_ranks(
    vectors: Sequence[Vector], spaces: Sequence[Space], riders: Sequence[Rider], comm: Communicator, weight: float = 1.0
) -> list[Vector]:
    """The means of vectors over the ranks, for an evaluation; the vectors do not change, riders take their means."""
    message = Message(spaces, riders, comm, weight)
    for mean, vector in zip(message.vectors, vectors, strict=True):
        mean.copy_(vector)
    message.average("evaluation")
    return message.vectors
