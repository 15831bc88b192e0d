"""How a command ends that cannot go on: one line of what is wrong, on one rank, and no rank left waiting."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import yaml

from hvdclip.comm import Communicator
from hvdclip.comm.environment import announced_rank
from hvdclip.config import ConfigError
from hvdclip.methods import NonFiniteGradient
from hvdclip.mistakes import in_words

BAD_INPUT = 2
Made = TypeVar("Made")


def together(comm: Communicator, make: Callable[[], Made]) -> Made:
    """make() on every rank; bad input on any of them ends all of them, with one line from rank 0."""
    made, mistake = None, ""
    try:
        made = make()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        mistake = in_words(error)
    mistakes = comm.gather(mistake)
    if any(mistakes):
        for rank, text in enumerate(mistakes):
            if comm.rank == 0 and text and text not in mistakes[:rank]:
                complain(text if comm.size == 1 or all(mistakes) else f"rank {rank}: {text}")
        sys.exit(BAD_INPUT)
    return made  # type: ignore[return-value]


def with_ranks(comm: Communicator, run: Callable[[], None]) -> None:
    """run(), ending the whole job when it fails on this rank only."""
    try:
        run()
    except NonFiniteGradient as error:
        if comm.rank == 0:
            complain(str(error))
        sys.exit(1)
    except Exception as error:
        if comm.size == 1:
            raise
        print(f"rank {comm.rank} on {socket.gethostname()} failed: {in_words(error)}", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        # sys.exit would wait for ranks that wait for this one; the launcher ends them when this process ends
        os._exit(1)


def bad_input(make: Callable[[], Made]) -> Made:
    """make() before any communicator exists; its error is bad input, told by the rank announced as 0 first."""
    try:
        return make()
    except (ConfigError, OSError, RuntimeError, ValueError, yaml.YAMLError) as error:
        if announced_rank() > 0:
            # rank 0 has most likely said the same, and the launcher then ends this rank before it repeats it
            time.sleep(3)
        complain(in_words(error))
        sys.exit(BAD_INPUT)


def complain(text: str) -> None:
    for line in text.splitlines():
        print(f"hvdclip: {line}", file=sys.stderr)
