"""A mean over a round's steps and all ranks, of a number that only some methods have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hvdclip.flat import Scalar
from hvdclip.flat.scalars import finite_or_zero, is_bad


class Mean:
    """Travels in the tail of a round's message as a sum and a count; values that are not finite do not count."""

    size = 2
    on_host = True

    def __init__(self, name: str):
        self.name = name
        self.agreed: float | None = None  # the mean in the last message
        self._sum: Scalar = 0.0
        self._count: Scalar = 0.0

    def add(self, number: Scalar) -> None:
        self._sum = self._sum + finite_or_zero(number)
        self._count = self._count + (1.0 - 1.0 * is_bad(number))

    def pack(self, tail: Tensor) -> None:
        tail[0], tail[1] = float(self._sum), float(self._count)
        self._sum = self._count = 0.0

    def unpack(self, tail: Tensor) -> None:
        total, count = tail.tolist()
        self.agreed = total / count if count else None

    def state_dict(self) -> dict[str, Any]:
        return {self.name: torch.tensor([float(self._sum), float(self._count)], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sum, self._count = state[self.name].tolist()
