"""How long a rank waits for the others before it takes them for lost."""

from __future__ import annotations

from hvdclip.comm import Ledger
from hvdclip.comm.watch import Wait

# Seconds at least: in training; and where ranks may wait for one that reads or writes files.
LEAST_S, FILES_S = 60.0, 600.0
# A rank may take this many times as long as the longest stretch so far, and as this rank has worked itself.
TIMES = 10


class Patience(Wait):
    """Counts how long the rank has waited in one collective; is_out when that is longer than the limit.

    The limit is `timeout`, in seconds, where there is one. Else it follows the work, since a rank is silent for all
    of a round, an evaluation or a slow start, and that is no fault.
    """

    def __init__(self, ledger: Ledger, timeout: float | None):
        super().__init__()
        self.ledger, self.timeout = ledger, timeout

    def pass_time(self, seconds: float) -> None:
        """So long this rank has been running since the last call."""
        self.go_on(self.ledger.pending, seconds)

    @property
    def limit(self) -> float:
        if self.timeout is not None or self.pending is None:
            return self.timeout or LEAST_S
        least = FILES_S if self.pending.purpose == "setup" else LEAST_S
        return max(least, TIMES * self.ledger[self.pending.purpose].longest, TIMES * self.pending.worked)

    @property
    def is_out(self) -> bool:
        return self.waited > self.limit

    @property
    def may_grow(self) -> bool:
        """Whether a rank that is known to write files is waited for."""
        return self.timeout is None and self.waited <= FILES_S
