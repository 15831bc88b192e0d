"""A message of few bytes per float: an all-to-all of shards, sums in float32, an all-gather of the means.

No all-reduce sums bfloat16 or 8-bit integers; here each rank owns one shard of the vector and sums it. The number of
bytes sent is that of a ring all-reduce of numbers of that width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hvdclip.comm import Communicator, Cost, Waiting
from hvdclip.flat import Space, Vector
from hvdclip.messages.coders import BLOCK, Coder
from hvdclip.messages.riders import Rider, Riders


class ShardedMessage:
    """A coded vector and the riders, in float32; `vectors[0]` is the mean over the ranks, until the next `take`."""

    def __init__(
        self, space: Space, coder: Coder, riders: Sequence[Rider], comm: Communicator, weight: float, name: str
    ):
        self.space, self.coder, self.comm, self.weight, self.name = space, coder, comm, weight, name
        self.cost = Cost()
        self.vectors: list[Vector] = []
        self.width = BLOCK * _share(space.size, BLOCK * comm.size)  # entries of a shard
        self.riders = Riders(riders)
        self.tail = torch.zeros(
            comm.size, _share(self.riders.size, comm.size), dtype=torch.float32, device=space.device
        )
        coded = coder.bytes(self.width)
        self.sent = torch.zeros(comm.size, coded + 4 * self.tail.shape[1], dtype=torch.uint8, device=space.device)
        self.codes, self.tail_bytes = self.sent[:, :coded], self.sent[:, coded:]
        self.received: list[Tensor] | None = None
        self._entries = torch.zeros(comm.size, self.width, dtype=torch.float32, device=space.device)

    def take(self, v: Vector) -> Vector:
        """Put v into the message; returns what the message encodes of it, in this message's memory."""
        self._entries.view(-1)[self.space.size :].zero_()
        entries = self.space.flatten(v, self._entries.view(-1)[: self.space.size])
        if self.weight != 1.0:
            entries.mul_(self.weight)
        self.coder.encode(self._entries, self.codes)
        self.coder.decode(self.codes, self._entries)
        if self.weight != 1.0:
            entries.div_(self.weight)
        return self._vector(self._entries)

    def start(self, purpose: str = "round") -> None:
        """Send each rank its shard, and send all ranks the mean of this rank's own shard, while this rank continues."""
        self.received = None
        self.riders.pack(self._ridden(self.tail))
        self.tail_bytes.copy_(self.tail.view(torch.uint8))
        self._everyone: Waiting[list[Tensor]] = self.comm.start_reduction(self.sent, self._mean, purpose, self.name)

    def _mean(self, shards: Tensor) -> Tensor:
        """The mean of the shard that this rank owns, coded; `_lost`, in this message's memory, is what that omits."""
        coded, answer = self.codes.shape[1], torch.empty_like(self.sent[:1])
        mean, said = self._entries[:1].zero_(), torch.empty_like(self._entries[:1])
        for shard in shards:
            self.coder.decode(shard[None, :coded], said)
            mean.add_(said)
        self.coder.encode(mean.div_(self.comm.size), answer[:, :coded])
        self.coder.decode(answer[:, :coded], said)
        self._lost = mean.sub_(said)[0]
        tail = shards[:, coded:].contiguous().view(torch.float32).mean(dim=0, keepdim=True)
        answer[:, coded:] = tail.view(torch.uint8)
        return answer[0]

    def wait(self) -> Vector:
        """Wait for all means; returns what coding on this rank has lost, as its part in the mean over the ranks."""
        self.received, self.cost = self._everyone()
        del self._everyone  # it refers to this message, which could otherwise not be freed
        lost = self._lost * (self.comm.size / self.weight)
        self._entries.zero_()[self.comm.rank] = lost
        return self._vector(self._entries)

    def restore(self, received: Sequence[Tensor]) -> None:
        """Act as if this had come back."""
        self.received = [tensor.to(self.space.device) for tensor in received]

    def finish(self) -> None:
        """Take the means, once `wait` is done."""
        assert self.received is not None
        coded = self.codes.shape[1]
        for received, row in zip(self.received, self._entries, strict=True):
            self.coder.decode(received[None, :coded], row[None])
        self.vectors = [self._vector(self._entries)]
        tail = torch.stack([received[coded:] for received in self.received]).view(torch.float32)
        self.riders.unpack(self._ridden(tail))

    def _ridden(self, tail: Tensor) -> Tensor:
        return tail.view(-1)[: self.riders.size]

    def _vector(self, rows: Tensor) -> Vector:
        return self.space.unflatten(rows.view(-1)[: self.space.size])


def _share(size: int, parts: int) -> int:
    return -(-size // parts)
