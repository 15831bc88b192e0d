"""The module's buffers (batch-norm statistics, counters) at an average of the parameters."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

BufferPolicy = Literal["average", "keep", "broadcast"]

# An integer travels as four base-65536 digits, which a float32 mean of zeros and one digit leaves exact.
DIGITS, BASE_BITS = 4, 16


class Buffers:
    """The persistent buffers of a module as a rider of the message.

    Float buffers are averaged, kept by each rank, or taken from rank 0, as the policy says; integer and boolean
    buffers are never averaged but taken from rank 0 (unless kept). Non-persistent buffers are no part of a model's
    state and stay each rank's own.
    """

    def __init__(self, module: nn.Module | None, policy: BufferPolicy, rank: int, ranks: int):
        persistent = [] if module is None else _persistent(module)
        self.all = persistent
        travelling = [] if policy == "keep" else persistent
        self.floats = [b for b in travelling if b.is_floating_point()]
        self.integers = [b for b in travelling if not b.is_floating_point()]
        self.policy, self.rank, self.ranks = policy, rank, ranks
        self.size = sum(b.numel() for b in self.floats) + DIGITS * sum(b.numel() for b in self.integers)

    def pack(self, tail: Tensor) -> None:
        # "Rank 0's value" is N times it on rank 0, averaged with zeros.
        if self.policy == "broadcast" and self.rank != 0:
            tail.zero_()
            return
        weight = self.ranks if self.policy == "broadcast" else 1
        for buffer, place in zip(self.floats, self._split(tail), strict=False):
            place.copy_(buffer.flatten()).mul_(weight)
        for buffer, place in zip(self.integers, self._split(tail)[len(self.floats) :], strict=True):
            if self.rank == 0:
                place.copy_(_digits(buffer))
            else:
                place.zero_()

    def unpack(self, tail: Tensor) -> None:
        for buffer, place in zip(self.floats, self._split(tail), strict=False):
            buffer.copy_(place.view(buffer.shape))
        for buffer, place in zip(self.integers, self._split(tail)[len(self.floats) :], strict=True):
            if self.rank != 0:
                buffer.copy_(_integers((place * self.ranks).round(), buffer))

    def _split(self, tail: Tensor) -> list[Tensor]:
        sizes = [b.numel() for b in self.floats] + [DIGITS * b.numel() for b in self.integers]
        return list(tail.split(sizes))


def _persistent(module: nn.Module) -> list[Tensor]:
    names = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in names]


def _digits(integers: Tensor) -> Tensor:
    shifts = torch.arange(DIGITS, device=integers.device) * BASE_BITS
    return (integers.to(torch.int64).flatten()[:, None] >> shifts & (1 << BASE_BITS) - 1).flatten()


def _integers(digits: Tensor, like: Tensor) -> Tensor:
    shifts = torch.arange(DIGITS, device=like.device) * BASE_BITS
    return (digits.to(torch.int64).view(-1, DIGITS) << shifts).sum(dim=1).view(like.shape).to(like.dtype)
