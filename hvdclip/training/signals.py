"""Signals that ask a run to stop, received whatever the main thread is doing."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hvdclip.training.feed import FEED

ASK_TO_STOP = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,  # the terminal has been closed
    signal.SIGXCPU,  # a limit of CPU time is near
)
# What ends a process that only waits for its exit: a launcher or user who means exactly that.
ALWAYS_MEANT = (signal.SIGTERM, signal.SIGINT)
_heard_here = False


class Signals:
    """From `start` to `end` these signals do not end this process; `wait`, in any thread, returns those that have come.

    Python runs handlers in the main thread only, and only after a collective has returned; but the byte that reports
    the signal is written at once.
    """

    def start(self) -> None:
        global _heard_here
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _go_on) for number in ASK_TO_STOP if not _is_unwanted(number)}
        _heard_here = True

    def wait(self, seconds: float) -> list[str]:
        """The names of the signals that have come, as soon as one comes, or after that time."""
        select.select([self._read], [], [], seconds)
        try:
            numbers = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number).name for number in numbers if number in self._before]

    def interrupt(self) -> None:
        """Make `wait` return."""
        os.write(self._write, b"\0")

    def end(self, handler: signal.Handlers | None = None) -> None:
        """Stop listening; the signals are handled as before, or by `handler`, which then outlives the interpreter.

        Only SIGTERM and SIGINT end the process then: SLURM may send SIGUSR2 when nothing but the exit is left.
        """
        global _heard_here
        _heard_here = False
        for number, before in self._before.items():
            if before is signal.SIG_DFL and number not in ALWAYS_MEANT:
                before = signal.SIG_IGN
            signal.signal(number, handler or before or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)


@contextmanager
def held() -> Iterator[None]:
    """Inside, signals that ask to stop wait, also in a process that is forked there, until it lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASK_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class InWorker:
    """A DataLoader's worker_init_fn: a signal to the whole process group does not end the worker, forked in `held`.

    Otherwise its rank would fail for lack of data before it has stopped. The rank itself can still end the worker. What
    the worker prints on stderr is kept for the rank.
    """

    def __init__(self, then: Callable[[int], Any] | None):
        self.then = then

    def __call__(self, worker: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ASK_TO_STOP)
        threading.Thread(target=_obey_parent, daemon=True).start()
        FEED.listen()
        if self.then is not None:
            self.then(worker)


def _obey_parent() -> None:
    while signal.sigwaitinfo(ASK_TO_STOP).si_pid != os.getppid():
        continue
    os._exit(0)


def _is_unwanted(number: signal.Signals) -> bool:
    """nohup: the run is to outlive its terminal."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _go_on(*_: Any) -> None: ...


def _in_child() -> None:
    # the pipe belongs to the parent; TERM is how multiprocessing ends a child
    if _heard_here:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in ASK_TO_STOP:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_child)
