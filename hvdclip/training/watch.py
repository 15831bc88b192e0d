"""The second thread of each rank: it receives signals, writes the heartbeat, and ends a rank that waits in vain."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hvdclip.comm import Communicator
from hvdclip.comm.watch import end_now, in_vain
from hvdclip.methods import Method
from hvdclip.training import heartbeats
from hvdclip.training.feed import FEED
from hvdclip.training.heartbeats import Beat
from hvdclip.training.patience import LEAST_S, Hunger, Patience
from hvdclip.training.rundir import STOP
from hvdclip.training.signals import Signals

PERIOD_S = 1.0
# For all ranks together, so that a thousand of them do not keep a shared file system busy.
BEATS_PER_S = 100
HUNGRY = "waiting for a batch"
AT_FILES = ("saving", HUNGRY)


class Watch:
    """Inside `with`, this rank is watched; `asked` says what has asked it to stop, a signal or the file STOP.

    The communicator releases Python's lock while it waits, so that the thread can run.
    """

    def __init__(self, comm: Communicator, timeout: float | None = None, before: Watch | None = None):
        self.comm = comm
        # a stop that a previous attempt was asked for still counts, signal or file
        self.asked: str | None = None if before is None else before.asked
        self._is_first = before is None
        self._host = socket.gethostname()
        self._patience, self._hunger = Patience(comm.ledger, timeout), Hunger(FEED, timeout)
        self._run: Path | None = None
        self._method: Method | None = None
        self._state = "setting up"
        self._signal: str | None = None
        self._ended: str | None = None
        self._interrupts = 0
        self._signals, self._over = Signals(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._writing = threading.Lock()

    def __enter__(self) -> Watch:
        self._signals.start()
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._over.set()
        self._signals.interrupt()
        self._thread.join()
        if self._ended is None:
            self.end("done" if error is None else self._last_word(error))
        # if the run has stopped, nothing may come between this rank and its exit status
        self._signals.end(signal.SIG_IGN if self._ended == "stopped" else None)

    def follow(self, run: Path, method: Method) -> None:
        """Write heartbeats in the run directory, with the method's steps; rank 0 also looks for STOP there."""
        self._method, self._run = method, run
        if self._is_first:
            self._forget_stop()
        self._state = "training"
        self._beat()

    @contextmanager
    def doing(self, state: str) -> Iterator[None]:
        """Inside, the heartbeat says this instead of "training"."""
        before, self._state = self._state, state
        yield
        self._state = before

    def end(self, word: str) -> None:
        """Leave the rank's final word."""
        self._ended = word
        if word == "stopped":
            self._forget_stop()
        self._beat()

    @property
    def where(self) -> str:
        return "in set-up" if self._method is None else f"at step {self._method.steps}"

    def _last_word(self, error: BaseException) -> str:
        # an error from a collective is about other ranks
        blame = "failed" if self.comm.ledger.pending is None else "lost"
        return f"{blame}: {type(error).__name__}: {error}".partition("\n")[0]

    def _watch(self) -> None:
        beats_every = PERIOD_S if self.comm.rank == 0 else max(PERIOD_S, self.comm.size / BEATS_PER_S)
        last = last_beat = time.monotonic()
        while not self._over.is_set():
            for name in self._signals.wait(PERIOD_S):
                self._hear(name)
            now = time.monotonic()
            if now - last < PERIOD_S:
                continue
            # not more, because a process that was stopped has not waited meanwhile
            passed = min(now - last, 2 * PERIOD_S)
            self._patience.pass_time(passed)
            self._hunger.pass_time(passed, self.asked is not None)
            last = now
            if now - last_beat >= beats_every:
                self._beat()
                last_beat = now
            self._look_for_stop()
            if self._patience.is_out and not self._somebody_is_at_files():
                self._give_up()
            self._look_at_data()

    def _hear(self, name: str) -> None:
        self._signal = name
        self._interrupts += name == "SIGINT"
        if self._interrupts > 1:
            if self._ended is None:
                self.end("failed: interrupted twice")
            end_now("interrupted twice: ended at once")
        if self.asked is None:
            self.asked = name
            if name == "SIGINT":
                _say("SIGINT: stopping at the end of a round; a second one ends at once")
        self._beat()

    def _look_for_stop(self) -> None:
        # os.path.exists returns False if a file system fails, so that this thread continues
        if self.asked is None and self.comm.rank == 0 and self._run is not None and os.path.exists(self._run / STOP):
            self.asked = STOP

    def _forget_stop(self) -> None:
        if self.comm.rank == 0 and self._run is not None:
            with suppress(OSError):
                (self._run / STOP).unlink(missing_ok=True)

    def _somebody_is_at_files(self) -> bool:
        """Whether a rank that is alive reads or writes files, for which the others wait."""
        if not self._patience.may_grow or self._run is None:
            return False
        alive = (beat for beat in heartbeats.read(self._run) if _age(beat) < LEAST_S / 2)
        return any(beat.state in AT_FILES and beat.waits is None for beat in alive)

    def _give_up(self) -> None:
        waited = in_vain(self._patience.waited, self._pending(), f"comm.timeout is {self._patience.limit:.0f} s")
        if self._run is not None:
            waited += f"; {_late(heartbeats.read(self._run), self.comm.rank, self._patience.waited)}"
        if self._ended is None:
            self.end(f"lost: {waited}")
        end_now(f"rank {self.comm.rank} on host {self._host}: {waited}")

    def _look_at_data(self) -> None:
        """Report a batch that does not come, and end this rank if waiting is in vain."""
        hunger = self._hunger
        if not (hunger.is_out or hunger.is_to_be_told()):
            return
        text = f"waiting for a batch for {hunger.waited:.0f} s"
        text += f"; the last line of a loader's worker: {FEED.said}" if FEED.said else ""
        where = f"rank {self.comm.rank} on host {self._host}: {self.where} "
        if not hunger.is_out:
            _say(where + text)
            return
        text += f"; the limit is {hunger.limit:.0f} s"
        if self.asked is not None:
            text += f"; asked to stop by {self.asked}, and ended without a checkpoint"
        if self._ended is None:
            self.end(f"failed: {text}")
        end_now(where + text)

    def _pending(self) -> str:
        pending = self._patience.pending
        purpose = "" if pending is None else pending.purpose
        if purpose == "round" and self._method is not None:
            return f"the average of round {self._method.rounds + 1} (step {self._method.steps})"
        return f"a collective of purpose {purpose!r} ({self.where})"

    def _beat(self) -> None:
        if self._run is None or self._method is None:
            return
        pending = self.comm.ledger.pending
        with self._writing, suppress(OSError):
            beat = Beat(
                rank=self.comm.rank,
                host=self._host,
                pid=os.getpid(),
                step=self._method.steps,
                round=self._method.rounds,
                time=time.time(),
                state=HUNGRY if self._hunger.is_felt else self._state,
                waits=None if pending is None else pending.purpose,
                signal=self._signal,
                ended=self._ended,
            )
            heartbeats.write(self._run, beat)


def asked_by(reasons: Sequence[str | None]) -> str:
    """What has asked each rank to stop, in words."""
    ranks: dict[str, list[int]] = {}
    for rank, reason in enumerate(reasons):
        if reason is not None:
            ranks.setdefault(reason, []).append(rank)
    said = (f"{reason} on {_named(some, len(reasons))}" for reason, some in ranks.items() if reason != STOP)
    return " and ".join([*said, *([f"the file {STOP}"] if STOP in ranks else [])])


def _named(ranks: Sequence[int], of: int) -> str:
    if len(ranks) == of > 1:
        return f"all {of} ranks"
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _late(beats: Sequence[Beat], me: int, waited: float, most: int = 4) -> str:
    """Which ranks this one has waited for, from their heartbeats: those that do not wait or are silent."""
    late = [beat for beat in beats if beat.rank != me and (beat.waits is None or _age(beat) > waited / 2)]
    if not late:
        return "all ranks wait: is a link between them cut?"
    hungry = {True: f", {HUNGRY}", False: ""}
    shown = [
        f"{beat}, last seen {_age(beat):.0f} s ago at step {beat.step}{hungry[beat.state == HUNGRY]}"
        for beat in late[:most]
    ]
    return "late: " + "; ".join(shown) + (f"; and {len(late) - most} more" if len(late) > most else "")


def _age(beat: Beat) -> float:
    return time.time() - beat.time


def _say(text: str) -> None:
    print(f"hvdclip: {text}", file=sys.stderr, flush=True)
