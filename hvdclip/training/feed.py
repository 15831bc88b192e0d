"""The wait for the next batch: how long it takes, and what the loader's workers have printed last."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")

# how much of a worker's output is kept, in bytes
LAST = 1024


class Feed:
    """One per process: the loops that wait for data report to it, and the watching thread reads it."""

    def __init__(self) -> None:
        self.turn = 0  # the number of the wait
        self.waits = False
        self.longest = 0.0  # seconds of the longest wait that is over
        self._words = os.memfd_create("words")  # workers inherit it

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside, this rank waits for data."""
        self.turn, self.waits, start = self.turn + 1, True, time.monotonic()
        try:
            yield
        finally:
            self.waits, self.longest = False, max(self.longest, time.monotonic() - start)

    def each(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The same batches; each wait for one is recorded."""
        while True:
            with self.awaited():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def listen(self) -> None:
        """In a worker: also keep what it prints on stderr for the rank. A worker that is stuck may have said why."""
        sys.stderr = _Told(sys.stderr, self._words)

    @property
    def said(self) -> str:
        """The last line that a worker has printed on stderr; "" if there is none."""
        lines = os.pread(self._words, LAST, 0).rstrip(b"\0").decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class _Told:
    """A stream whose last words can be read in the process that has made the file."""

    def __init__(self, stream: Any, words: int):
        self._stream, self._file, self._last = stream, words, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._last = (self._last + text.encode(errors="replace"))[-LAST:]
        os.pwrite(self._file, self._last.ljust(LAST, b"\0"), 0)
        return int(self._stream.write(text))


FEED = Feed()
