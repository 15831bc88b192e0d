"""A file of lines that survives a full disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Lines:
    """Appends lines; lines that cannot be written now are kept, and written with a later one."""

    def __init__(self, path: Path, say: Callable[[str], None]):
        self.path, self.say = path, say
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""
        self._failing = False

    @property
    def size(self) -> int:
        """Bytes of all lines, including those that are waiting."""
        return self._size + len(self._waiting)

    def append(self, line: str) -> None:
        self._waiting += line.encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.truncate(self._size)  # remove what a failure may have left of a line
                file.write(self._waiting)
        except OSError as error:
            if not self._failing:
                self.say(
                    f"{self.path}: {error.strerror or error}; its lines are kept and tried again with the next one"
                )
            self._failing = True
            return
        self._size, self._waiting, self._failing = self.size, b"", False
