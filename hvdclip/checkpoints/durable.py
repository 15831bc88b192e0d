"""Files that are never seen half-written, and are on the disk once they are seen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

PIECE = 2**20  # bytes that are read at once, because a whole file may not fit into memory


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: Any, /) -> Any: ...

    def flush(self) -> None: ...


class Checksum(NamedTuple):
    """A file's size and SHA-256; they show damage to it."""

    bytes: int
    sha256: str


def write(path: Path, content: Callable[[Sink], Any]) -> Checksum:
    """Let `content` write a temporary file, and rename it once all of it is on the disk.

    OSError names the file; the previous file then stays.
    """
    part = path.with_name(f"{path.name}.part")
    summed = _Summed()
    try:
        with part.open("wb") as summed.file:
            content(summed)
            summed.file.flush()
            os.fsync(summed.file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        failure = summed.failure or error  # torch.save hides why it could not write
        if isinstance(failure, OSError):
            raise OSError(failure.errno, failure.strerror, str(path)) from error
        raise
    return Checksum(summed.bytes, summed.digest.hexdigest())


def write_text(path: Path, text: str) -> Checksum:
    return write(path, lambda file: file.write(text.encode()))


def checksum_of(path: Path) -> Checksum:
    """The checksum of a file as it is now."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return Checksum(path.stat().st_size, digest.hexdigest())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Summed:
    """Computes the checksum of what is written to a file."""

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
