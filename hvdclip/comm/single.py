"""One rank alone: every collective is the identity and nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hvdclip.comm.base import Communicator


class SingleRank(Communicator):
    """A world of one rank; the ledger stays empty, since nothing is communicated."""

    rank = 0
    size = 1

    def average_(self, tensors: Sequence[Tensor], purpose: str = "round") -> None:
        pass

    def broadcast_(self, tensors: Sequence[Tensor], purpose: str = "setup") -> None:
        pass

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        return [value]
