"""A rank that waits too long for the others says so and ends: for your own loops, which nothing else watches."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from hvdclip.comm.base import Ledger, Pending

# One look costs about ten microseconds, in a separate thread.
PERIOD_S = 1.0


class Wait:
    """How long, in seconds, a rank has `waited` in the collective that is `pending`."""

    def __init__(self) -> None:
        self.pending: Pending | None = None
        self.waited = 0.0

    def go_on(self, pending: Pending | None, seconds: float) -> None:
        """This is pending now, and the rank has been running for so long since the last call."""
        same = pending is not None and pending is self.pending and not pending.failed
        self.waited = self.waited + seconds if same else 0.0
        self.pending = pending


class _Watched(Wait):
    """A rank whose collectives may take `limit` seconds each."""

    def __init__(self, rank: int, limit: float):
        super().__init__()
        self.rank, self.limit = rank, limit

    def look(self, ledger: Ledger, seconds: float) -> None:
        """Like go_on, but ends the process after too long a wait."""
        self.go_on(ledger.pending, seconds)
        if self.pending is not None and self.waited > self.limit:
            where = f"a collective of purpose {self.pending.purpose!r} ({_after(ledger)})"
            waited = in_vain(self.waited, where, f"timeout is {self.limit:g} s")
            end_now(f"rank {self.rank} on host {socket.gethostname()}: {waited}")


_watched: WeakKeyDictionary[Ledger, _Watched] = WeakKeyDictionary()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch(ledger: Ledger, rank: int, timeout: float | None) -> None:
    """End this process if a collective of the ledger takes longer than `timeout` seconds; None: stop watching."""
    global _thread
    with _lock:
        _watched.pop(ledger, None)
        if timeout is None:
            return
        _watched[ledger] = _Watched(rank, timeout)
        # a forked process has none of its parent's threads
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look_after_all, name="hvdclip.watch", daemon=True)
            _thread.start()


def in_vain(seconds: float, where: str, reason: str) -> str:
    """What a rank says when it gives up waiting."""
    return f"waited {seconds:.0f} s in {where} for the other ranks; {reason}"


def end_now(text: str) -> NoReturn:
    """End this process from any of its threads, with a line."""
    print(f"hvdclip: {text}", file=sys.stderr, flush=True)
    # sys.exit would end this thread only
    os._exit(1)


def _look_after_all() -> None:
    last = time.monotonic()
    while True:
        time.sleep(PERIOD_S)
        now = time.monotonic()
        # not more, because a process that was stopped has not waited meanwhile
        _look(min(now - last, 2 * PERIOD_S))
        last = now


def _look(seconds: float) -> None:
    with _lock:
        watched = list(_watched.items())
    for ledger, each in watched:
        each.look(ledger, seconds)


def _after(ledger: Ledger) -> str:
    rounds = ledger["round"].collectives if "round" in ledger.purposes() else 0
    return f"after {rounds} of purpose 'round'" if rounds else "in set-up"
