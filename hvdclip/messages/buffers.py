"""The module's buffers (batch-norm statistics, counters) at an average of the parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvdclip.settings import BufferPolicy


class Buffers:
    """The persistent buffers of a module as a rider of the message.

    Float buffers are averaged over the ranks where they are finite, or kept by each rank, or taken from rank 0, as the
    policy says; integer and boolean buffers are never averaged but taken from rank 0 (unless kept). What is rank 0's
    travels as its bytes, one a float, and so arrives bit for bit. Non-persistent buffers are no part of a model's
    state and stay each rank's own.
    """

    def __init__(self, module: nn.Module | None, policy: BufferPolicy, rank: int, ranks: int, weight: float = 1.0):
        self.rank, self.ranks, self.weight = rank, ranks, weight
        self._all = [] if module is None else _persistent(module)
        travelling = self._all if policy != "keep" and ranks > 1 else []
        self._averaged = [b for b in travelling if policy == "average" and _is_float(_tensor(b))]
        self._copied = [b for b in travelling if b not in self._averaged]
        self._sizes = [_numbers(_tensor(b)).numel() for b in self._averaged]
        self._sizes += [_bytes(_tensor(b)).numel() for b in self._copied]
        self.size = sum(self._sizes) + bool(self._averaged)

    def tensors(self) -> list[Tensor]:
        """All persistent buffers as they are now; a module may rebind them at any time."""
        return [_tensor(b) for b in self._all]

    def travelling(self) -> list[Tensor]:
        """Those of them that the message carries."""
        return [_tensor(b) for b in (*self._averaged, *self._copied)]

    def pack(self, tail: Tensor) -> None:
        if not self.size:
            return
        averaged, copied, share = self._places(tail)
        for buffer, place in zip(self._averaged, averaged, strict=True):
            place.copy_(_numbers(_tensor(buffer)).flatten())
        for buffer, place in zip(self._copied, copied, strict=True):
            place.copy_(_bytes(_tensor(buffer)) if self.rank == 0 else torch.zeros_like(place))
        if self._averaged:
            # one rank's NaN would be everybody's: such a rank sends zeros and does not count
            floats = tail[: sum(place.numel() for place in averaged)]
            finite = floats.isfinite().all()
            floats.masked_fill_(~finite, 0.0).mul_(self.weight)
            share.copy_(finite * self.weight)

    def unpack(self, tail: Tensor) -> None:
        if not self.size:
            return
        averaged, copied, share = self._places(tail)
        for buffer, place in zip(self._averaged, averaged, strict=True):
            numbers = _numbers(_tensor(buffer))
            numbers.copy_(torch.where(share > 0, place.view(numbers.shape) / share, numbers))
        if self.rank != 0:
            for buffer, place in zip(self._copied, copied, strict=True):
                tensor = _tensor(buffer)
                tensor.copy_((place * self.ranks).round().to(torch.uint8).view(tensor.dtype).view(tensor.shape))

    def _places(self, tail: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Where the averaged and the copied buffers lie in the tail, and the share of ranks whose buffers count."""
        places = list(tail[: sum(self._sizes)].split(self._sizes))
        return places[: len(self._averaged)], places[len(self._averaged) :], tail[-1]


class MovingBuffers:
    """The same buffers as the rider of a message during which they go on: each moves by mean - what was sent."""

    def __init__(self, buffers: Buffers):
        self.buffers, self.size = buffers, buffers.size
        self.then: list[Tensor] = []

    def pack(self, tail: Tensor) -> None:
        self.then = [tensor.clone() for tensor in self.buffers.travelling()]
        self.buffers.pack(tail)

    def unpack(self, tail: Tensor) -> None:
        now = [tensor.clone() for tensor in self.buffers.travelling()]
        for tensor, before in zip(self.buffers.travelling(), self.then, strict=True):
            tensor.copy_(before)
        self.buffers.unpack(tail)
        for tensor, after, before in zip(self.buffers.travelling(), now, self.then, strict=True):
            if tensor.dtype != torch.bool:
                moved = after - before
                tensor.add_(moved.where(moved.isfinite(), torch.zeros_like(moved)))


def _persistent(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """(owner, name) of each buffer in the state_dict, one that several layers share once."""
    names = module.state_dict().keys()
    found = []
    for path, _ in module.named_buffers():
        owner, _, name = path.rpartition(".")
        if path in names:
            found.append((module.get_submodule(owner), name))
    return found


def _tensor(buffer: tuple[nn.Module, str]) -> Tensor:
    owner, name = buffer
    tensor = owner._buffers[name]
    assert tensor is not None
    return tensor


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _numbers(tensor: Tensor) -> Tensor:
    """The tensor as real numbers; a view."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
