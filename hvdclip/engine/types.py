"""The classes of vectors, messages and statistics: those of one rank, or those that a communicator brings."""

from __future__ import annotations

from typing import NamedTuple

from hvdclip.comm import Communicator
from hvdclip.flat import Space
from hvdclip.messages import Message, Statistics


class Types(NamedTuple):
    """The classes that a method is built from."""

    space: type[Space]
    message: type[Message]
    statistics: type[Statistics]


ONE_RANK = Types(Space, Message, Statistics)


def types_of(comm: Communicator) -> Types:
    """The classes for one rank, unless the communicator steps several ranks at once and has `types` of its own."""
    return getattr(comm, "types", ONE_RANK)
