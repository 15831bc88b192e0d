"""The terminal in front of the user, also from a rank behind a launcher's pipes."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from rich.console import Console

from hvdclip.announced import MPIRUN, ancestors, announced_ranks
from hvdclip.command.output import forgiving

LAUNCHERS = (*MPIRUN, "horovodrun")


def terminal() -> TextIO | None:
    """The terminal for live output; None if output goes into a file, a pipe or another host's terminal.

    Under a launcher a rank's own stdout shows nothing of this (Open MPI 5 gives ranks a pseudo-terminal whatever its
    own output is, Horovod gives them a pipe), so this looks at the outermost launcher's stdout.
    """
    if announced_ranks()[1] == "":
        return sys.stdout if sys.stdout.isatty() else None
    launchers = ancestors(LAUNCHERS)
    if not launchers:
        return None
    try:
        path = os.readlink(f"/proc/{launchers[-1]}/fd/1")
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY) if path.startswith(("/dev/pts/", "/dev/tty")) else -1
    except OSError:
        return None
    return forgiving(descriptor) if descriptor >= 0 else None


def console() -> Console:
    """A console on that terminal, with its width; otherwise on stdout, without colours and 160 columns wide."""
    screen = terminal()
    width = _width(screen) if screen else 160
    return Console(file=screen or sys.stdout, force_terminal=screen is not None, width=width, highlight=False)


def _width(screen: TextIO) -> int:
    try:
        return os.get_terminal_size(screen.fileno()).columns or 80  # a terminal without a known size returns 0
    except OSError:  # it has been closed
        return 80
