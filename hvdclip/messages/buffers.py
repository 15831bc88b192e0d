"""The module's buffers (batch-norm statistics, counters) at an average of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hvdclip.settings import BufferPolicy
from hvdclip.torch_private import buffers_of

STATISTICS = {"running_mean", "running_var"}  # the buffers of any module that normalises by batches
NAMED = 8  # buffers that an error lists
COMPILED = "_orig_mod."  # prefix of the names inside a module that torch.compile returns


class Buffer(NamedTuple):
    """Where a buffer is found; a module may rebind it at any time."""

    path: str
    owner: nn.Module
    name: str

    @property
    def tensor(self) -> Tensor:
        tensor = buffers_of(self.owner)[self.name]
        assert tensor is not None
        return tensor

    @property
    def is_statistic(self) -> bool:
        """Whether the mean of the ranks' buffers is a valid buffer: not for unit vectors, extremes or copies of x."""
        its_own = buffers_of(self.owner)
        return self.name in STATISTICS and all(its_own.get(name) is not None for name in STATISTICS)


class Buffers:
    """The persistent buffers of a module as a rider of the message.

    Each is averaged over the ranks that have finite values, taken from rank 0, or left as it is on each rank. The
    policy decides; "average" averages the running means and variances of batch norms, and takes all others from rank 0.
    A mapping gives a policy to the buffers whose names fit a pattern, the first that fits; "average" then averages all
    floats. Integer and boolean buffers are never averaged. Buffers from rank 0 travel as bytes, two per float, and so
    arrive exactly. Non-persistent buffers are not part of a model's state, and each rank has its own.

    Raises ValueError for a pattern that fits no buffer.
    """

    on_host = False

    def __init__(
        self,
        module: nn.Module | None,
        policy: BufferPolicy | Mapping[str, BufferPolicy],
        rank: int,
        ranks: int,
        weight: float = 1.0,
    ):
        self.rank, self.ranks, self.weight = rank, ranks, weight
        self._all = [] if module is None else _persistent(module)
        ways = _ways(self._all, policy)
        self.kept = [buffer.path for buffer, way in zip(self._all, ways, strict=True) if way == "keep"]
        travelling = list(zip(self._all, ways, strict=True)) if ranks > 1 else []
        self._averaged = [buffer for buffer, way in travelling if way == "average"]
        self._copied = [buffer for buffer, way in travelling if way == "broadcast"]
        self._shapes = [(tensor.shape, tensor.dtype) for tensor in self.travelling()]
        self._sizes = [_numbers(b.tensor).numel() for b in self._averaged]
        self._sizes += [_pieces(b.tensor).numel() for b in self._copied]
        # even if all are empty so far: otherwise nothing would notice that one no longer is
        self.size = max(sum(self._sizes) + bool(self._averaged), min(1, len(self._sizes)))

    def tensors(self) -> list[Tensor]:
        """All persistent buffers, as they are now; a module may rebind them at any time."""
        return [buffer.tensor for buffer in self._all]

    def averaged(self) -> list[Tensor]:
        """The buffers that the message averages."""
        return [buffer.tensor for buffer in self._averaged]

    def copied(self) -> list[Tensor]:
        """The buffers that it takes from rank 0."""
        return [buffer.tensor for buffer in self._copied]

    def travelling(self) -> list[Tensor]:
        """The buffers that the message carries."""
        return [*self.averaged(), *self.copied()]

    def pack(self, tail: Tensor) -> None:
        if not self.size:
            return
        self._check_shapes()
        averaged, copied, share = self._places(tail)
        for tensor, place in zip(self.averaged(), averaged, strict=True):
            place.copy_(_numbers(tensor).flatten())
        for tensor, place in zip(self.copied(), copied, strict=True):
            place.copy_(_pieces(tensor) if self.rank == 0 else torch.zeros_like(place))
        if self._averaged:
            # one rank's NaN would spread to all: such a rank sends zeros and does not count
            floats = tail[: sum(place.numel() for place in averaged)]
            finite = floats.isfinite().all()
            floats.masked_fill_(~finite, 0.0).mul_(self.weight)
            share.copy_(finite * self.weight)

    def unpack(self, tail: Tensor) -> None:
        if not self.size:
            return
        averaged, copied, share = self._places(tail)
        for tensor, place in zip(self.averaged(), averaged, strict=True):
            numbers = _numbers(tensor)
            numbers.copy_(torch.where(share > 0, place.view(numbers.shape) / share, numbers))
        if self.rank != 0:
            for tensor, place in zip(self.copied(), copied, strict=True):
                pieces = (place * self.ranks).round().to(_piece_of(tensor))
                tensor.copy_(pieces.view(tensor.dtype).view(tensor.shape))

    def _places(self, tail: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Where the averaged and the copied buffers are in the tail, and the share of ranks whose buffers count."""
        places = list(tail[: sum(self._sizes)].split(self._sizes))
        return places[: len(self._averaged)], places[len(self._averaged) :], tail[-1]

    def _check_shapes(self) -> None:
        for buffer, (shape, dtype) in zip((*self._averaged, *self._copied), self._shapes, strict=True):
            tensor = buffer.tensor
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"buffer {buffer.path} was {dtype} of shape {tuple(shape)} when the optimizer was made, and is "
                    f"{tensor.dtype} of shape {tuple(tensor.shape)} now; allowed: hvdclip.optimizer(...) after the "
                    f"forward pass that shapes it, or buffer_policy={{{buffer.path!r}: 'keep'}}"
                )


class MovingBuffers:
    """The same buffers as the rider of a message during which steps continue.

    Each buffer that is averaged moves by mean - (what was sent). For buffers from rank 0, rank 0 keeps its current
    values. The other ranks take what it sent; counters (integers) add what they have counted since. Another rank's
    floats must not be moved like that: a unit vector, for example, would not stay one.
    """

    on_host = False

    def __init__(self, buffers: Buffers):
        self.buffers, self.size = buffers, buffers.size
        self.then: list[Tensor] = []

    def pack(self, tail: Tensor) -> None:
        self.then = [tensor.clone() for tensor in self.buffers.travelling()]
        self.buffers.pack(tail)

    def unpack(self, tail: Tensor) -> None:
        averaged, copied = self.buffers.averaged(), self.buffers.copied()
        now = [tensor.clone() for tensor in (*averaged, *copied)]
        for tensor, before in zip((*averaged, *copied), self.then, strict=True):
            tensor.copy_(before)
        self.buffers.unpack(tail)
        cut = len(averaged)
        for tensor, after, before in zip(averaged, now[:cut], self.then[:cut], strict=True):
            moved = after - before
            tensor.add_(moved.where(moved.isfinite(), torch.zeros_like(moved)))
        for tensor, after, before in zip(copied, now[cut:], self.then[cut:], strict=True):
            if self.buffers.rank == 0:
                tensor.copy_(after)
            elif not _is_float(tensor) and tensor.dtype != torch.bool:
                tensor.add_(after - before)


def _persistent(module: nn.Module) -> list[Buffer]:
    """Each buffer in the state_dict, once if several layers share it; ValueError for one without a shape."""
    names = module.state_dict().keys()
    found = []
    for path, tensor in module.named_buffers():
        owner, _, name = path.rpartition(".")
        shown = path.replace(COMPILED, "")
        if path in names and is_lazy(tensor):
            raise ValueError(f"buffer {shown} has no shape yet; allowed: hvdclip.optimizer(...) after a forward pass")
        if path in names:
            found.append(Buffer(shown, module.get_submodule(owner), name))
    return found


def _ways(buffers: list[Buffer], policy: BufferPolicy | Mapping[str, BufferPolicy]) -> list[BufferPolicy]:
    """What happens to each buffer."""
    patterns = policy if isinstance(policy, Mapping) else {}
    for pattern in patterns:
        if not any(fnmatchcase(buffer.path, pattern) for buffer in buffers):
            names = [buffer.path for buffer in buffers[:NAMED]] + ["..."] * (len(buffers) > NAMED)
            there_are = ", ".join(names) or "none (no module was given, or it has no buffers)"
            raise ValueError(f"buffer_policy: the pattern {pattern!r} fits no buffer; there are {there_are}")
    return [_way(buffer, policy) for buffer in buffers]


def _way(buffer: Buffer, policy: BufferPolicy | Mapping[str, BufferPolicy]) -> BufferPolicy:
    if isinstance(policy, Mapping):
        fitting = [way for pattern, way in policy.items() if fnmatchcase(buffer.path, pattern)]
        if not fitting:
            return _way(buffer, "average")
        return "broadcast" if fitting[0] == "average" and not _is_float(buffer.tensor) else fitting[0]
    if policy == "average" and not (buffer.is_statistic and _is_float(buffer.tensor)):
        return "broadcast"
    return policy


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _numbers(tensor: Tensor) -> Tensor:
    """The tensor as real numbers; a view."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _pieces(tensor: Tensor) -> Tensor:
    """The tensor's bytes as whole numbers that a float holds exactly."""
    return tensor.contiguous().view(-1).view(_piece_of(tensor))


def _piece_of(tensor: Tensor) -> torch.dtype:
    return torch.uint8 if tensor.element_size() == 1 else torch.int16
