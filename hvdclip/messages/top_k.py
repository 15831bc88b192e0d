"""A message of the k largest entries of a vector: one all-gather of their values and places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hvdclip.comm import Communicator, Cost, Waiting
from hvdclip.flat import Space, Vector
from hvdclip.messages.riders import Rider, Riders


class TopKMessage:
    """Values and places (2k numbers), then the riders in the tail; `vectors[0]` is the mean over the ranks."""

    def __init__(self, space: Space, k: int, riders: Sequence[Rider], comm: Communicator, weight: float, name: str):
        self.space, self.k, self.comm, self.weight, self.name = space, k, comm, weight, name
        self.cost = Cost()
        self.dtype = space.widest
        self.places = torch.int64 if self.dtype == torch.float64 else torch.int32
        self.riders = Riders(riders)
        sizes = [k, k, self.riders.size]
        self.sent = torch.zeros(sum(sizes), dtype=self.dtype, device=space.device)
        self.parts = self.sent.split(sizes)
        self.vectors: list[Vector] = []
        self.received: list[Tensor] | None = None

    def take(self, v: Vector) -> Vector:
        """Put the k largest entries of v, by absolute value, into the message; returns them as a vector."""
        flat = self.space.flatten(v)
        chosen = _largest(flat.abs(), self.k)
        values = flat[chosen]
        self.parts[0].copy_(self.weight * values)
        self.parts[1].view(self.places).copy_(chosen)
        return self.space.unflatten(torch.zeros_like(flat).index_put_((chosen,), values))

    def average(self, purpose: str = "round") -> None:
        self.start(purpose)
        self.wait()
        self.finish()

    def start(self, purpose: str = "round") -> None:
        self.received = None
        self.riders.pack(self.parts[2])
        self._everyone: Waiting[list[Tensor]] = self.comm.start_gather(self.sent, purpose, self.name)

    def wait(self) -> None:
        self.received, self.cost = self._everyone()

    def restore(self, received: Sequence[Tensor]) -> None:
        """Act as if this had come back."""
        self.received = [tensor.to(self.space.device) for tensor in received]

    def finish(self) -> None:
        """Take the means, once `wait` is done."""
        assert self.received is not None
        mean = torch.zeros(self.space.size, dtype=self.dtype, device=self.space.device)
        for received in self.received:
            values, places = received[: self.k], received[self.k : 2 * self.k].view(self.places)
            mean.index_add_(0, places.long(), values / self.comm.size)
        self.vectors = [self.space.unflatten(mean)]
        self.riders.unpack(torch.stack([received[2 * self.k :] for received in self.received]).mean(dim=0))


def _largest(sizes: Tensor, k: int) -> Tensor:
    """The places of the k largest, in any order; NaN is larger than all."""
    if sizes.device.type != "cpu":
        return sizes.topk(k).indices
    # torch takes five times as long
    return torch.from_numpy(np.argpartition(sizes.numpy(), -k)[-k:])
