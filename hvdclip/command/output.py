"""Output never ends a command's work: what cannot be written is left out, and reported at the end."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

PATIENCE_S = 10.0  # seconds within which the reader of a non-blocking pipe must continue


class _Forgiving(io.FileIO):
    """Accepts everything, even if the disk is full, or the reader or terminal is gone."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Everything is accepted: written, or left out."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left.nbytes:
                written = super().write(left)
                if written is None and not select.select([], [self.fileno()], [], PATIENCE_S)[1]:
                    break
                left = left[written or 0 :]
        except OSError as error:
            self.failure = error
        return size


def forgiving(descriptor: int, like: TextIO | None = None) -> TextIO:
    """A text stream on it, configured like another one, that raises no error, even for letters not in its encoding."""
    raw = _Forgiving(descriptor)
    if not isinstance(like, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)
    at_once, by_lines = like.write_through, like.line_buffering
    below: Any = raw if at_once else io.BufferedWriter(raw)  # python -u: no buffering
    return io.TextIOWrapper(below, like.encoding, "backslashreplace", line_buffering=by_lines, write_through=at_once)


def never_fails() -> None:
    """From now on neither printing nor the interpreter's last flush raises, in this process and those it forks."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            _open_nowhere(descriptor)
        elif stream is not getattr(sys, f"__{name}__") or isinstance(_raw(stream), _Forgiving):
            continue  # another program's stream, such as a notebook's or a test's
        else:
            with suppress(OSError):
                stream.flush()
        made = forgiving(descriptor, stream)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)  # otherwise the old stream's last flush would fail


def failure(stream: Any) -> OSError | None:
    """Why output has been left out, if it has; None if only its reader was gone."""
    with suppress(OSError, ValueError):
        stream.flush()
    error = getattr(_raw(stream), "failure", None)
    return None if isinstance(error, BrokenPipeError) else error


def _raw(stream: Any) -> Any:
    below = getattr(stream, "buffer", None)
    return getattr(below, "raw", below)


def _open_nowhere(descriptor: int) -> None:
    """So that no file of the run gets the number of a closed stream, to which libraries write."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
