"""One live run per directory: rank 0 holds a lock on it, and heartbeats show a rank 0 on another host."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from hvdclip.training import heartbeats

FILE = "lock"
# A rank 0 that has been silent for this long is not alive.
SILENT_S = 15.0
# A process may still have its lock when its launcher has already ended.
RELEASED_S = 2.0


def claim(run: Path) -> IO[str]:
    """Make this process the run directory's only user as long as the file is open; FileExistsError names another one.

    A POSIX lock: forked workers do not inherit it, and it ends with the process, however the process ends.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = (run / FILE).open("a+")
    locked = _try_lock(file, fcntl.LOCK_EX)
    if locked is False or _beats(run, locked):
        owner = _owner(run)
        file.close()
        raise FileExistsError(f"{run} is used by a running run: {owner}")
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}) + "\n")
    file.flush()
    return file


def user(run: Path) -> str | None:
    """Whose run is alive in the directory, in words; not for the process that has the lock, which would lose it."""
    locked = None
    if (run / FILE).exists():
        with (run / FILE).open() as file:
            locked = _try_lock(file, fcntl.LOCK_SH)
    return _owner(run) if locked is False or _beats(run, locked) else None


def _try_lock(file: IO[str], kind: int) -> bool | None:
    """Whether the lock was free, or became free soon; None if the file system has no locks."""
    deadline = time.monotonic() + RELEASED_S
    while True:
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return None
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _beats(run: Path, locked: bool | None) -> bool:
    """Whether heartbeats show a rank 0 that the lock does not show."""
    first = heartbeats.of_rank(run, 0)
    if first is None or first.ended or (locked and first.host == socket.gethostname()):
        return False
    while time.time() - first.time < SILENT_S:
        now = heartbeats.of_rank(run, 0)
        if now is not None and now.time != first.time:
            return now.ended is None
        time.sleep(0.5)
    return False


def _owner(run: Path) -> str:
    try:
        owner = json.loads((run / FILE).read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f"rank 0 on {owner['host']}, pid {owner['pid']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its rank 0 has not named itself"
