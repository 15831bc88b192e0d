"""Compressed averages: the update is sent in few bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hvdclip.flat import Space, Vector
from hvdclip.messages import ShardedMessage, TopKMessage
from hvdclip.messages.coders import Coder, Half, Int4, Int8
from hvdclip.settings import AveragingSettings


class Compressed:
    """Sends the update x - x_round in few bytes; `error` keeps what these omit, and it is sent later.

    Error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019. The owner of a shard codes the mean
    again, and what this loses goes into the owner's error (as in Tang et al., DoubleSqueeze, ICML 2019). So over a run
    the means differ from the exact ones only by the mean of the current errors.

    The mean is written into `mean`, which may be `x_round` itself.
    """

    def __init__(
        self,
        name: str,
        message: ShardedMessage | TopKMessage,
        generator: torch.Generator,
        x: Vector,
        x_round: Vector,
        error: Vector,
        mean: Vector,
    ):
        self.name, self.message, self.generator = name, message, generator
        self.x, self.x_round, self.error, self.mean = x, x_round, error, mean

    def start(self, key: tuple[int, ...]) -> None:
        self.generator.manual_seed(int(np.random.SeedSequence((*key, self.message.comm.rank)).generate_state(1)[0]))
        self.error.add_difference_(self.x, self.x_round)
        self.error.sub_(self.message.take(self.error))
        self.message.start()

    def wait(self) -> None:
        lost = self.message.wait()
        if lost is not None:
            self.error.add_(lost)

    def finish(self) -> Vector:
        self.message.finish()
        return self.mean.copy_(self.x_round).add_(self.message.vectors[0])

    def apart(self) -> list[str]:
        return [f"the error of its compression ({self.name})"]


def compressed(
    settings: AveragingSettings,
    message_of: Callable[..., Any],
    space: Space,
    x: Vector,
    x_round: Vector,
    error: Vector,
) -> Compressed:
    """The exchange of one of the compressions fp16, bf16, int8, int4 and topk; `message_of` makes its message."""
    generator, name = torch.Generator(space.device), settings.compression
    # an outer step starts from the previous x_round
    mean = x_round if settings.outer == "none" else space.vector()
    message: ShardedMessage | TopKMessage
    if name == "topk":
        message = message_of(max(1, round(settings.top_share * space.size)), kind=TopKMessage)
    else:
        message = message_of(_coder(name, generator), kind=ShardedMessage)
    return Compressed(name, message, generator, x, x_round, error, mean)


def _coder(name: str, generator: torch.Generator) -> Coder:
    if name in ("int8", "int4"):
        return Int8(generator) if name == "int8" else Int4(generator)
    return Half({"fp16": torch.float16, "bf16": torch.bfloat16}[name])
