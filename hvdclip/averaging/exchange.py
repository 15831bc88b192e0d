"""Exchanges: how the mean is made from the ranks' parameters."""

from __future__ import annotations

from typing import Protocol

from hvdclip.flat import Vector
from hvdclip.messages import Message, ShardedMessage, TopKMessage


class Exchange(Protocol):
    """Sends x to the other ranks, and takes what comes back."""

    @property
    def message(self) -> Message | ShardedMessage | TopKMessage:
        """The message that goes to the others."""

    @property
    def x(self) -> Vector:
        """The vector whose views the parameters are."""

    def start(self, key: tuple[int, ...]) -> None:
        """Send x; random numbers are drawn from (key, rank)."""

    def wait(self) -> None:
        """Wait for what the others have sent; this rank's vectors do not change."""

    def finish(self) -> Vector:
        """The mean of what was sent, possibly in the memory of x or of the last mean; riders take their values."""

    def apart(self) -> list[str]:
        """What each rank has that others do not, in words."""


class InPlace:
    """x is in the message, and the mean replaces it there: nothing may move x meanwhile."""

    def __init__(self, message: Message, x: Vector):
        self.message, self.x = message, x

    def start(self, key: tuple[int, ...]) -> None:
        self.message.start(meanwhile=False)

    def wait(self) -> None:
        self.message.wait()

    def finish(self) -> Vector:
        self.message.finish()
        return self.x

    def apart(self) -> list[str]:
        return []


class Copied:
    """Averages a copy of x; `meanwhile` says that x takes further steps until the mean is there."""

    def __init__(self, message: Message, x: Vector, meanwhile: bool):
        self.message, self.x, self.meanwhile = message, x, meanwhile

    def start(self, key: tuple[int, ...]) -> None:
        self.message.vectors[0].copy_(self.x)
        self.message.start(meanwhile=self.meanwhile)

    def wait(self) -> None:
        self.message.wait()

    def finish(self) -> Vector:
        self.message.finish()
        return self.message.vectors[0]

    def apart(self) -> list[str]:
        return []
