"""One rank alone: every collective is the identity and nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hvdclip.comm.base import Communicator, Cost, Reduce, Waiting


class SingleRank(Communicator):
    """A world of one rank; the ledger stays empty, because nothing is communicated."""

    rank = 0
    size = 1

    def start_average_(
        self, tensors: Sequence[Tensor], purpose: str = "round", name: str = "", meanwhile: bool = True
    ) -> Waiting[None]:
        return lambda: (None, Cost())

    def start_gather(self, tensor: Tensor, purpose: str = "round", name: str = "") -> Waiting[list[Tensor]]:
        return lambda: ([tensor], Cost())

    def start_reduction(
        self, rows: Tensor, reduce: Reduce, purpose: str = "round", name: str = ""
    ) -> Waiting[list[Tensor]]:
        return lambda: ([reduce(rows)], Cost())

    def node(self) -> Communicator:
        return self

    def ring_average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> Cost:
        return Cost()

    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        pass

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        return [value]
