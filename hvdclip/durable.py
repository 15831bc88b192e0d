"""Files that are never seen half-written, and are on the disk once they are seen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: Any, /) -> Any: ...

    def flush(self) -> None: ...


class Print(NamedTuple):
    """A file's size and SHA-256, by which damage to it is found."""

    bytes: int
    sha256: str


def write(path: Path, content: Callable[[Sink], Any]) -> Print:
    """Have `content` write the file beside its place, and put it there once all of it is on the disk.

    OSError names the file; what was there before stays.
    """
    part = path.with_name(f"{path.name}.part")
    printed = _Printed()
    try:
        with part.open("wb") as printed.file:
            content(printed)
            printed.file.flush()
            os.fsync(printed.file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        failure = printed.failure or error  # torch.save would hide why it could not write
        if isinstance(failure, OSError):
            raise OSError(failure.errno, failure.strerror, str(path)) from error
        raise
    return Print(printed.bytes, printed.digest.hexdigest())


def write_text(path: Path, text: str) -> Print:
    return write(path, lambda file: file.write(text.encode()))


def print_of(path: Path) -> Print:
    """The print of a file as it is now."""
    with path.open("rb") as file:
        return Print(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Printed:
    """Takes the print of what goes into a file."""

    file: BinaryIO

    def __init__(self) -> None:
        self.bytes, self.digest = 0, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as whole:
            self.digest.update(whole)
            self.bytes += len(whole)
            try:
                return self.file.write(whole)
            except OSError as error:
                self.failure = error
                raise

    def flush(self) -> None:
        self.file.flush()
