"""Vectors: one number per trainable parameter entry, and their algebra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hvdclip.flat.norm import exact, norm_of
from hvdclip.flat.scalars import Scalar
from hvdclip.torch_private import (
    foreach_add,
    foreach_add_,
    foreach_copy_,
    foreach_div,
    foreach_lerp_,
    foreach_maximum_,
    foreach_mul,
    foreach_pow,
    foreach_sub,
    foreach_sub_,
    foreach_zero_,
)

HALVES = (torch.float16, torch.bfloat16)
PIECE = 1 << 20  # entries


class Vector:
    """One number per trainable parameter entry.

    `parts` are shaped like the parameters; `flats` are the contiguous tensors, one per dtype, whose views the parts are
    (none for gradients, which stay where autograd put them). `alike` says that all ranks have the same values.
    """

    def __init__(self, parts: Sequence[Tensor], flats: Sequence[Tensor] = ()):
        self.parts, self.flats = list(parts), list(flats)
        self.alike = False

    @property
    def tensors(self) -> list[Tensor]:
        """All entries in as few tensors as there are."""
        return self.flats or self.parts

    def like(self, parts: Sequence[Tensor]) -> Vector:
        """A vector of this kind on other tensors, shaped like the parameters."""
        return Vector(parts)

    def norm(self) -> Tensor:
        """L2 norm over all entries together: a 0-dim tensor, float32 or, where there are float64 entries, float64."""
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in self.tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        return norm_of(by_dtype.values(), self.tensors[0].device)

    def copy_(self, other: Vector) -> Vector:
        foreach_copy_(*self._matched(other))
        return self

    def copy_where(self, mask: Tensor | bool, other: Vector) -> None:
        """Become the other one if the mask, of one number, is true."""
        if isinstance(mask, Tensor):
            for mine, its in zip(*self._matched(other), strict=True):
                torch.where(mask, its, mine, out=mine)
        elif mask:
            self.copy_(other)

    def zero_unless(self, mask: Tensor | bool) -> None:
        """Become zero if the mask, of one number, is false."""
        if isinstance(mask, Tensor):
            for tensor in self.tensors:
                tensor.masked_fill_(~mask, 0.0)
        elif not mask:
            self.zero_()

    def add_(self, other: Vector) -> Vector:
        foreach_add_(*self._matched(other))
        return self

    def sub_(self, other: Vector) -> Vector:
        foreach_sub_(*self._matched(other))
        return self

    def add_difference_(self, other: Vector, another: Vector) -> Vector:
        """Add other - another, in pieces: no further vector is made."""
        for tensors in zip(self.tensors, other.tensors, another.tensors, strict=True):
            for mine, a, b in zip(*(tensor.view(-1).split(PIECE) for tensor in tensors), strict=True):
                mine.add_(a - b)
        return self

    def maximum_(self, other: Vector) -> Vector:
        foreach_maximum_(*self._matched(other))
        return self

    def mul_(self, factor: Scalar) -> Vector:
        for tensor in self.tensors:
            if tensor.dtype in HALVES:
                tensor.copy_(tensor.float() * factor)  # the factor itself may be too small for float16
            else:
                tensor.mul_(factor)
        return self

    def lerp_(self, other: Vector, weight: Scalar) -> Vector:
        """(1 - weight) * self + weight * other."""
        mine, others = self._matched(other)
        if isinstance(weight, Tensor):
            for a, b in zip(mine, others, strict=True):
                a.lerp_(b, weight.to(a.dtype))
        else:
            foreach_lerp_(mine, others, weight)
        return self

    def dot(self, other: Vector) -> Tensor:
        """The inner product, as exact as `norm`."""
        pairs = [(a, b, exact(a.dtype)) for a, b in zip(self.parts, other.parts, strict=True)]
        return torch.stack([(a.to(dtype) * b.to(dtype)).sum() for a, b, dtype in pairs]).sum()

    def __add__(self, other: Vector | float) -> Vector:
        return self.like(foreach_add(self.parts, other.parts if isinstance(other, Vector) else other))

    def __sub__(self, other: Vector) -> Vector:
        return self.like(foreach_sub(self.parts, other.parts))

    def __rmul__(self, factor: Tensor | float) -> Vector:
        return self.like(foreach_mul(self.parts, factor))

    def __truediv__(self, other: Vector) -> Vector:
        return self.like(foreach_div(self.parts, other.parts))

    def __pow__(self, exponent: float) -> Vector:
        return self.like(foreach_pow(self.parts, exponent))

    def clone(self) -> Vector:
        return self.like([part.clone() for part in self.parts])

    def zero_(self) -> Vector:
        foreach_zero_(self.tensors)
        return self

    @contextmanager
    def replaced_by(self, other: Vector) -> Iterator[None]:
        """Inside, this vector has the other's values; afterwards its own again."""
        with torch.no_grad():
            own = [tensor.clone() for tensor in self.tensors]
            self.copy_(other)
        try:
            yield
        finally:
            with torch.no_grad():
                foreach_copy_(self.tensors, own)

    def _matched(self, other: Vector) -> tuple[list[Tensor], list[Tensor]]:
        return (self.flats, other.flats) if self.flats and other.flats else (self.parts, other.parts)


class Gradient(Vector):
    """The gradients where autograd put them, with their norm, which is computed once."""

    def __init__(self, parts: Sequence[Tensor], norm: Tensor):
        super().__init__(parts)
        self._norm = norm

    def norm(self) -> Tensor:
        return self._norm
