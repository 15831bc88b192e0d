"""Pace: how long each rank has worked by itself since the last message; the next message reports it to all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hvdclip.comm import Ledger


class Pace:
    """A watch that stops while its rank waits in a collective, or is `paused`; by the host's clock."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self.restart()

    def restart(self) -> None:
        self._mark = self._now()

    def lap(self) -> float:
        """Seconds of own work since the last lap."""
        last, self._mark = self._mark, self._now()
        return self._mark - last

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self._mark += self._now() - start

    def _now(self) -> float:
        return time.perf_counter() - self._ledger.seconds


def waits(worked: Sequence[float]) -> dict[str, Any]:
    """Seconds that a rank waits for the slowest one, averaged over the ranks, and which is slowest; None if unknown."""
    if not worked:
        return {"waiting_s": None, "slowest": None}
    most = max(worked)
    return {"waiting_s": most - sum(worked) / len(worked), "slowest": worked.index(most)}
