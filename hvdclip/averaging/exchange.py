"""Exchanges: the way from the ranks' parameters to their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from hvdclip.comm import Communicator
from hvdclip.flat import Space, Vector
from hvdclip.messages import Message, Rider, ShardedMessage, TopKMessage
from hvdclip.messages.coders import Coder, Half, Int8


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


class Copied:
    """A copy of x is averaged, so that x may go on meanwhile."""

    def __init__(self, message: Message, x: Vector):
        self.message, self.x = message, x

    def start(self, key: tuple[int, ...]) -> None:
        self.message.vectors[0].copy_(self.x)
        self.message.start()

    def wait(self) -> None:
        self.message.wait()

    def finish(self) -> Vector:
        self.message.finish()
        return self.message.vectors[0]


class Compressed:
    """The way x - common goes over the wire in few bytes; what they leave out is kept in `error` and sent later.

    Error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019. What is lost when the owner of a
    shard codes the mean again goes into its own error (as in Tang et al., DoubleSqueeze, ICML 2019), so that over a run
    the means that were taken differ from the exact ones by the mean of the present errors only.

    The mean is taken into `mean`, which may be `common` itself.
    """

    def __init__(
        self,
        message: ShardedMessage | TopKMessage,
        x: Vector,
        common: Vector,
        error: Vector,
        generator: torch.Generator,
        mean: Vector,
    ):
        self.message, self.x, self.common, self.error, self.generator = message, x, common, error, generator
        self.mean = mean

    def start(self, key: tuple[int, ...]) -> None:
        self.generator.manual_seed(int(np.random.SeedSequence((*key, self.message.comm.rank)).generate_state(1)[0]))
        self.error.add_(self.x - self.common)
        self.error.sub_(self.message.take(self.error))
        self.message.start()

    def wait(self) -> None:
        lost = self.message.wait()
        if lost is not None:
            self.error.add_(lost)

    def finish(self) -> Vector:
        self.message.finish()
        return self.mean.copy_(self.common).add_(self.message.vectors[0])


def compressed(
    compression: str,
    top_share: float,
    riders: Sequence[Rider],
    space: Space,
    comm: Communicator,
    weight: float,
    name: str,
    common: Vector,
    error: Vector,
    mean: Vector,
) -> Compressed:
    """The exchange of one of the compressions fp16, bf16, int8 and topk."""
    generator = torch.Generator(space.device)
    message: ShardedMessage | TopKMessage
    if compression == "topk":
        message = TopKMessage(space, max(1, round(top_share * space.size)), riders, comm, weight, name)
    else:
        halves = {"fp16": torch.float16, "bf16": torch.bfloat16}
        coder: Coder = Int8(generator) if compression == "int8" else Half(halves[compression])
        message = ShardedMessage(space, coder, riders, comm, weight, name)
    return Compressed(message, space.vector(), common, error, generator, mean)
