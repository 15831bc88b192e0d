"""How a command ends that cannot continue: one line that says what is wrong, on one rank; no rank keeps waiting."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import yaml

from hvdclip.announced import announced_rank
from hvdclip.errors import ConfigError, NonFiniteGradient, message_of

if TYPE_CHECKING:
    from hvdclip.comm import Communicator

BAD_INPUT = 2
STOPPED = 75  # and resumable: sysexits.h's EX_TEMPFAIL
# Rank 0 has most likely found the same mistake and reported it by then; the launcher then ends the other ranks.
REPEATED_AFTER = 10.0  # seconds
Made = TypeVar("Made")


class Stopped(Exception):
    """The run has stopped because it was asked to, on all ranks, and can be resumed."""


def together(comm: Communicator, make: Callable[[], Made]) -> Made:
    """Call make() on every rank; bad input on any of them ends all of them, with one line from rank 0."""
    # A make() that communicates, as Trainer does, must fail on all ranks or on none: otherwise the gather below would
    # meet the collective that the other ranks are in, and they would hang, or report something else. What Trainer
    # refuses is in the configuration or has been gathered, so all ranks know it; a rank without memory is not covered.
    made, mistake = None, ""
    try:
        made = make()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        mistake = message_of(error)
    mistakes = comm.gather(mistake)
    if any(mistakes):
        for rank, text in enumerate(mistakes):
            if comm.rank == 0 and text and text not in mistakes[:rank]:
                complain(text if comm.size == 1 or all(mistakes) else f"rank {rank}: {text}")
        comm.gather(None)  # when the first rank exits, the launcher ends the others, which may still be printing
        sys.exit(BAD_INPUT)
    return made  # type: ignore[return-value]


def with_ranks(
    comm: Communicator,
    run: Callable[[], None],
    where: Callable[[], str] = str,
    through: tuple[type[Exception], ...] = (),
) -> None:
    """Call run(), and end the whole job if it fails on this rank only; `where` says in words how far it has come.

    The errors in `through` are raised. A ConfigError is bad input, reported in one line.
    """
    try:
        run()
    except through:
        raise
    except NonFiniteGradient as error:
        if comm.rank == 0:
            complain(str(error))
        sys.exit(1)
    except Stopped as stopped:
        if comm.rank == 0:
            complain(str(stopped))
        sys.exit(STOPPED)
    except ConfigError as error:  # known only once data are read, and most likely on all ranks
        if comm.rank > 0:
            time.sleep(REPEATED_AFTER)
        complain(f"rank {comm.rank}: {error}" if comm.size > 1 else str(error))
        sys.stdout.flush()
        os._exit(BAD_INPUT)
    except Exception as error:
        failed = " ".join(["failed", where()]).rstrip()
        complain(f"rank {comm.rank} on host {socket.gethostname()} {failed}: {type(error).__name__}: {error}")
        traceback.print_exc()
        sys.stderr.flush()
        # sys.exit would wait for ranks that wait for this one; the launcher ends them when this process ends
        os._exit(1)


def bad_input(make: Callable[[], Made]) -> Made:
    """Call make() before any communicator exists; its error is bad input, reported first by the rank announced as 0."""
    try:
        return make()
    except (ConfigError, OSError, RuntimeError, ValueError, yaml.YAMLError) as error:
        if announced_rank() > 0:
            time.sleep(REPEATED_AFTER)
        complain(message_of(error))
        sys.exit(BAD_INPUT)


def complain(text: str) -> None:
    """Print it on stderr, one line per mistake; on a terminal long lines are folded."""
    for line in text.splitlines():
        said = f"hvdclip: {line}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            said = textwrap.fill(said, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        print(said, file=sys.stderr)
