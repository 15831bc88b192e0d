"""Exchanges: the way from the ranks' parameters to their mean."""

from __future__ import annotations

from typing import Protocol

from hvdclip.flat import Vector
from hvdclip.messages import Message, ShardedMessage, TopKMessage


class Exchange(Protocol):
    """Hands x over to the other ranks, and takes what comes back."""

    @property
    def message(self) -> Message | ShardedMessage | TopKMessage:
        """What goes to the others."""

    @property
    def x(self) -> Vector:
        """The vector that the parameters are views of."""

    def start(self, key: tuple[int, ...]) -> None:
        """Hand over x; random numbers are drawn from (key, rank)."""

    def wait(self) -> None:
        """Wait for what the others have sent; nothing of this rank's changes by it."""

    def finish(self) -> Vector:
        """The mean of what was handed over, maybe in the memory of x or of the last mean; riders take theirs."""

    def apart(self) -> list[str]:
        """What each rank keeps for itself, in words."""


class InPlace:
    """x lies in the message and becomes the mean in its place: nothing may move x meanwhile."""

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
    """A copy of x is averaged; `meanwhile` says that x goes on until it is waited for."""

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
