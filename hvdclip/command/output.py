"""What a command shows never ends its work: output that cannot be written is left out, and told at the end."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

PATIENCE_S = 10.0  # in which one reads on who has set the pipe to give no waits


class _Forgiving(io.FileIO):
    """Takes all that it is given, also where a disk is full, a reader or a terminal gone."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it is done with: written, or given up."""
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
    """A text stream on it, set up as another one, that raises no error, also where its encoding lacks a letter."""
    raw = _Forgiving(descriptor)
    if not isinstance(like, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)
    at_once, by_lines = like.write_through, like.line_buffering
    below: Any = raw if at_once else io.BufferedWriter(raw)  # python -u: nothing waits for more
    return io.TextIOWrapper(below, like.encoding, "backslashreplace", line_buffering=by_lines, write_through=at_once)


def never_fails() -> None:
    """From here on neither printing nor the interpreter's last flush raises, in this process and those it forks."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            _open_nowhere(descriptor)
        elif stream is not getattr(sys, f"__{name}__") or isinstance(_raw(stream), _Forgiving):
            continue  # somebody else's, say a notebook's or a test's
        else:
            with suppress(OSError):
                stream.flush()
        made = forgiving(descriptor, stream)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)  # else the old one's last flush would fail


def failure(stream: Any) -> OSError | None:
    """Why output has been left out, if it has; None where merely its reader had gone."""
    with suppress(OSError, ValueError):
        stream.flush()
    error = getattr(_raw(stream), "failure", None)
    return None if isinstance(error, BrokenPipeError) else error


def _raw(stream: Any) -> Any:
    below = getattr(stream, "buffer", None)
    return getattr(below, "raw", below)


def _open_nowhere(descriptor: int) -> None:
    """So that no file of the run gets the number of a stream that is closed, on which libraries write."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
