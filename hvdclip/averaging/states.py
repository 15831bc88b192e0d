"""Averages of an inner optimizer's states, each every so many rounds, in the round's message.

Iacob et al.: DES-LOC. 2025.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.averaging.exchange import InPlace
from hvdclip.flat import Vector
from hvdclip.messages import Message

SHAPE = (3, 2)  # shape of the parameter that shows which states there are; no counter of steps has this shape


class States:
    """The states of an optimizer by their names, and the rounds in which they are due.

    A parameter's state is averaged once all ranks have it. Until then each rank uses its own. A rank whose steps have
    all been left out has none.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, intervals: Mapping[str, int], parameters: Sequence[Tensor]):
        self.intervals, self.parameters = intervals, parameters

    def find_in(self, optimizer: torch.optim.Optimizer, known_as: str) -> None:
        """Use this optimizer's states; ValueError for a name that it does not have."""
        self.optimizer, there = optimizer, names_of(optimizer, known_as, self.parameters[0].device)
        for name in self.intervals:
            if name not in there:
                allowed = ", ".join(there) or "none, because it has no state of a parameter's shape"
                raise ValueError(f"state_intervals has {name!r}; allowed with {known_as}: {allowed}")

    def due(self, round: int) -> list[str]:
        """The states that the average at the end of a round (from 0) takes."""
        return [name for name, interval in self.intervals.items() if (round + 1) % interval == 0]

    def put(self, name: str, vector: Vector) -> None:
        """Copy a state of all parameters into a vector, with NaN for parameters that have none yet."""
        for part, state in zip(vector.parts, self._of(name), strict=True):
            part.fill_(torch.nan) if state is None else part.copy_(state)

    def take(self, name: str, mean: Vector) -> None:
        """A state becomes its mean, if all ranks had it."""
        for part, state in zip(mean.parts, self._of(name), strict=True):
            if state is not None:
                state.copy_(torch.where(part.isnan(), state, part))

    def _of(self, name: str) -> list[Tensor | None]:
        return [self.optimizer.state.get(p, {}).get(name) for p in self.parameters]


class StatesToo:
    """Averages x in place; in rounds with states that are due, a copy of x in one message with them.

    That message is made for the round, so that states that seldom travel take no memory permanently.
    """

    def __init__(self, plain: InPlace, states: States, message_of: Callable[[int], Message]):
        self.plain, self.states, self._message_of = plain, states, message_of
        self.x, self.message = plain.x, plain.message
        self._due: list[str] = []

    def start(self, key: tuple[int, ...]) -> None:
        *_, round = key
        self._due = self.states.due(round)
        if self._due:
            self.message = self._message_of(1 + len(self._due))
            self.message.vectors[0].copy_(self.x)
            for name, vector in zip(self._due, self.message.vectors[1:], strict=True):
                self.states.put(name, vector)
        self.message.start(meanwhile=False)

    def wait(self) -> None:
        self.message.wait()

    def finish(self) -> Vector:
        message, self.message = self.message, self.plain.message
        message.finish()
        mean, *states = message.vectors
        for name, vector in zip(self._due, states, strict=True):
            self.states.take(name, vector)
        self.message.cost = message.cost
        return self.x if message is self.message else mean

    def apart(self) -> list[str]:
        return []


def names_of(optimizer: torch.optim.Optimizer, known_as: str, device: torch.device) -> list[str]:
    """The names of the states with the shape of their parameter; ValueError if a first step does not show them."""
    try:
        states = _after_a_step(optimizer, device)
    except Exception as error:
        raise ValueError(
            f"state_intervals: a trial step on a small parameter shows which states {known_as} has, "
            f"but this step failed: {error}"
        ) from None
    like = (name for state in states for name, value in state.items() if getattr(value, "shape", None) == SHAPE)
    return list(dict.fromkeys(like))


def _after_a_step(optimizer: torch.optim.Optimizer, device: torch.device) -> list[dict[str, Any]]:
    """The state of a parameter in each of the optimizer's groups, after a step of a copy of the optimizer."""
    probe = copy.copy(optimizer)
    probe.__dict__ = optimizer.__dict__ | probe.__dict__
    parameters = [nn.Parameter(torch.zeros(SHAPE, device=device)) for _ in optimizer.param_groups]
    probe.state = defaultdict(dict)
    probe.param_groups = [{**group, "params": [p]} for group, p in zip(optimizer.param_groups, parameters, strict=True)]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    probe.step()
    return [probe.state[p] for p in parameters]
