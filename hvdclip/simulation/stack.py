"""N ranks as rows of one tensor: the classes of vectors and messages with which one process steps all ranks at once.

A model's one parameter has the shape (K, N, d): K seeds, N ranks, d numbers. A norm is then a tensor (K, N, 1), which
every formula takes instead of the one number of a rank, and an average is a mean over the ranks' dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hvdclip.comm import Communicator, Cost, Reduce, Waiting
from hvdclip.engine import Method, Types
from hvdclip.engine.agreement import kind
from hvdclip.engine.inner import ELEMENTWISE
from hvdclip.flat import Gradient, Scalar, Space, Vector
from hvdclip.messages import Message, Rider
from hvdclip.messages.statistics import BINS, LEAST, MOST, NORM, PER_OCTAVE, SUMS, Statistics
from hvdclip.settings import AveragingSettings

# the outermost bins reach this far
EDGE = 1 / PER_OCTAVE


class Stack(Communicator):
    """The communicator of N stacked ranks; `rank` means nothing here."""

    rank = 0
    types: ClassVar[Types]  # the classes of a method on it

    def __init__(self, ranks: int):
        super().__init__()
        self.size = self.local_size = ranks

    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        """Does nothing: all rows start with the same values."""

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        return [value] * self.size

    def start_average_(
        self, tensors: Sequence[Tensor], purpose: str = "round", name: str = "", meanwhile: bool = True
    ) -> Waiting[None]:
        raise NotImplementedError("stacked ranks meet only in messages")

    def start_gather(self, tensor: Tensor, purpose: str = "round", name: str = "") -> Waiting[list[Tensor]]:
        raise NotImplementedError("stacked ranks meet only in messages")

    def start_reduction(
        self, rows: Tensor, reduce: Reduce, purpose: str = "round", name: str = ""
    ) -> Waiting[list[Tensor]]:
        raise NotImplementedError("stacked ranks meet only in messages")

    def node(self) -> Communicator:
        raise NotImplementedError("stacked ranks have no nodes")

    def ring_average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> Cost:
        shifts = {shift % self.size: shift for shift in (0, 1, -1)}  # a neighbour on both sides counts once
        payload = sum(t[..., 0, :].numel() * t.element_size() for t in tensors) // len(tensors[0])
        self.ledger.begin(purpose)
        for tensor in tensors:
            tensor.copy_(torch.stack([tensor.roll(shift, dims=-2) for shift in shifts.values()]).mean(dim=0))
        return self.ledger.end(purpose, 0, payload * (len(shifts) - 1))


class StackedVector(Vector):
    """Rows of ranks."""

    def like(self, parts: Sequence[Tensor]) -> Vector:
        return StackedVector(parts)

    def norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.tensors[0], dim=-1, keepdim=True)

    def dot(self, other: Vector) -> Tensor:
        return (self.tensors[0] * other.tensors[0]).sum(dim=-1, keepdim=True)

    def __rmul__(self, factor: Tensor | float) -> Vector:
        return StackedVector([factor * part for part in self.parts])


class StackedGradient(Gradient, StackedVector):
    """The rows' gradients."""


class StackedSpace(Space):
    """One parameter of shape (K, N, d); raises ValueError for others."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        super().__init__(parameters)
        if len(self.parameters) != 1 or self.parameters[0].dim() != 3:
            raise ValueError("stacked ranks need a model of one parameter of shape (seeds, ranks, numbers)")
        self.seeds, self.ranks, self.width = self.parameters[0].shape

    @property
    def size(self) -> int:
        return self.width

    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        return StackedGradient(parts, StackedVector(parts).norm())

    def vector(self, flats: dict[torch.dtype, Tensor] | None = None) -> Vector:
        flat = torch.zeros_like(self.parameters[0]) if flats is None else next(iter(flats.values()))
        return StackedVector([flat], [flat])


class StackedMessage(Message):
    """The messages of all ranks; the ledger counts what one rank would send."""

    def __init__(
        self,
        spaces: Sequence[Space],
        riders: Sequence[Rider],
        comm: Communicator,
        weight: float = 1.0,
        name: str = "",
    ):
        self.comm, self.cost = comm, Cost()
        self.vectors = [space.vector() for space in spaces]
        self.statistics = [rider for rider in riders if isinstance(rider, StackedStatistics)]
        itemsize = spaces[0].parameters[0].element_size()
        self.payload = (sum(space.size for space in spaces) + sum(rider.size for rider in riders)) * itemsize

    def start(self, purpose: str = "round", meanwhile: bool = True) -> None:
        self.purpose = purpose

    def wait(self) -> None:
        self.comm.ledger.begin(self.purpose)
        for flat in (vector.flats[0] for vector in self.vectors):
            flat.copy_(flat.mean(dim=-2, keepdim=True).expand_as(flat))
        self.cost = self.comm.ledger.end(self.purpose, 1, self.payload)

    def finish(self) -> None:
        for statistics in self.statistics:
            statistics.agree()

    def average_with_neighbours(self) -> None:
        self.cost = self.comm.ring_average_([vector.flats[0] for vector in self.vectors])


class StackedStatistics(Statistics):
    """Sums over all ranks at once, means over the seeds; a gradient that is not finite is an error at once."""

    counts_are_whole = False  # they are means over the seeds

    def add(self, name: str, value: Tensor | float, *, alike: bool = False) -> None:
        mean = value.double().mean().item() if isinstance(value, Tensor) else value
        if alike:
            self._alike[name] = mean
        else:
            self._mine[SUMS.index(name)] += mean * self.ranks

    def add_norm(self, norm: Scalar) -> None:
        assert isinstance(norm, Tensor)
        norms = norm.double().flatten()
        self._mine[NORM] += norms.sum().item()
        octaves = norms.log2().clamp(LEAST - EDGE, MOST + EDGE)
        self._mine[-BINS:] += torch.histc(octaves, BINS, LEAST - EDGE, MOST + EDGE).numpy()
        self.seeds = len(norm)

    def mark_failed(self, step: int, failed: Tensor | bool) -> None:
        assert isinstance(failed, Tensor)
        if failed.any():
            rank = int(failed.flatten(0, 1).any(dim=-1).nonzero()[0]) % self.ranks
            raise FloatingPointError(f"the gradient is not finite on simulated rank {rank} at step {step} of its round")

    def agree_alone(self) -> None:
        self.agree()

    def agree(self) -> None:
        """Do what a message would have done."""
        tail = torch.zeros(self.size, dtype=torch.float64)
        self.pack(tail)
        tail[NORM] /= self.seeds
        self.unpack(tail / self.ranks)
        self._paces_known = self.differ = False  # no row works by itself


Stack.types = Types(StackedSpace, StackedMessage, StackedStatistics)


def stackable(method: type[Method], settings: Any) -> bool:
    """Whether all ranks of a method with these settings can be rows of one tensor."""
    inner = getattr(settings, "inner", None)
    beyond_plain = isinstance(settings, AveragingSettings) and settings.beyond_plain
    by_entry = inner is None or kind(inner) in ELEMENTWISE
    return method.vectorises(settings) and by_entry and not beyond_plain and getattr(settings, "interval", 1) != "auto"
