"""How long a rank waits for the others before it considers them lost."""

from __future__ import annotations

from hvdclip.comm import Ledger
from hvdclip.comm.watch import Wait
from hvdclip.training.feed import Feed

# At least so many seconds: in training; and while ranks may wait for one that reads or writes files.
LEAST_S, FILES_S = 60.0, 600.0
# A rank may take this many times as long as the longest period so far, and as long as this rank itself has worked.
TIMES = 10
# A rank that waits for a batch says so after this many seconds; if asked to stop, it waits this long.
TELL_S, GRACE_S = 30.0, 10.0


class Patience(Wait):
    """Counts how long the rank has waited in one collective; `is_out` is true if that is longer than the limit.

    The limit is `timeout`, in seconds, if it is set. Otherwise it follows the work, because a rank is silent during a
    whole round, an evaluation or a slow start, and that is not a fault.
    """

    def __init__(self, ledger: Ledger, timeout: float | None):
        super().__init__()
        self.ledger, self.timeout = ledger, timeout

    def pass_time(self, seconds: float) -> None:
        """The rank has been running for so long since the last call."""
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
        """Whether the rank waits for one that is known to write files."""
        return self.timeout is None and self.waited <= FILES_S


class Hunger:
    """Counts how long the rank waits for one batch: when to report it, and when to give up.

    Files may be slow, so the limit is `timeout` seconds or, without it, ten minutes, and ten times the longest wait so
    far. If the rank has been asked to stop and cannot, because no batch comes, the limit is much shorter.
    """

    def __init__(self, feed: Feed, timeout: float | None):
        self.feed, self.timeout = feed, timeout
        self.waited = self.asked = 0.0  # seconds
        self._turn, self._told = 0, 0

    def pass_time(self, seconds: float, asked: bool) -> None:
        """The rank has been running for so long since the last call; `asked` says whether it has been asked to stop."""
        is_same = self.feed.waits and self.feed.turn == self._turn
        self.waited = self.waited + seconds if is_same else 0.0
        self.asked = self.asked + seconds if is_same and asked else 0.0
        self._turn = self.feed.turn

    @property
    def is_felt(self) -> bool:
        """Whether the rank has waited long enough for others to know."""
        return self.feed.waits and self.waited > 1

    def is_to_be_told(self) -> bool:
        """True once in each wait."""
        if self.waited <= min(TELL_S, self.limit) or self._told == self._turn:
            return False
        self._told = self._turn
        return True

    @property
    def limit(self) -> float:
        return self.timeout or max(FILES_S, TIMES * self.feed.longest)

    @property
    def is_out(self) -> bool:
        return self.waited > self.limit or self.asked > max(GRACE_S, 2 * self.feed.longest)
