"""The outer step: a second optimizer takes x_round - mean x, the change of a round, as its gradient.

Reddi et al., ICLR 2021 (adaptive federated optimization); Douillard et al., DiLoCo, 2023 (Nesterov outside).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.flat import Vector
from hvdclip.settings.groups import OuterSettings

Outer = Callable[[Vector, Sequence[int]], None]
"""The type of an outer step: step(mean, alone)."""


class OuterStep:
    """One outer optimizer over x_round, the same on all ranks."""

    def __init__(self, settings: OuterSettings, x_round: Vector):
        self.x_round = x_round
        self._parameters = [nn.Parameter(flat) for flat in x_round.flats]
        self.optimizer = _build(settings, self._parameters)

    def begin(self) -> None:
        """Start from x_round, the ranks' common x."""

    def step(self, mean: Vector, alone: Sequence[int] = ()) -> None:
        """Move x_round by the mean over the ranks; `mean` becomes the new x_round too.

        The parameters at the places `alone` had no gradient in any step of the round. They and their state do not
        change.
        """
        kept = [(part, part.clone()) for place in alone for part in self._of(place)]
        for parameter, flat in zip(self._parameters, mean.flats, strict=True):
            # in the memory of the mean, which is not needed any more
            parameter.grad = torch.sub(parameter.detach(), flat, out=flat)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for part, before in kept:
            part.copy_(before)
        mean.copy_(self.x_round)

    def _of(self, place: int) -> Iterator[Tensor]:
        """What belongs to a parameter: its part of x_round, and of the state's tensors that have the same length."""
        part = self.x_round.parts[place]
        for parameter, flat in zip(self._parameters, self.x_round.flats, strict=True):
            start = (part.data_ptr() - flat.data_ptr()) // flat.element_size()
            if part.dtype == flat.dtype:
                whole = [flat, *(t for t in self.optimizer.state[parameter].values() if t is not None)]
                yield from (t[start : start + part.numel()] for t in whole if t.shape == flat.shape)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class OuterParts:
    """Outer steps of several parts of x, which are at these places, each from its own part of x_round.

    A part's step does not change the parameters for which no step since the part's last average had a gradient.
    """

    def __init__(self, steps: Sequence[OuterStep], places: Sequence[slice]):
        self.steps, self.places = steps, places
        self._moved: list[set[int]] = [set() for _ in steps]  # for each part, by steps since its last average

    def begin(self) -> None:
        """Start from x_round, the ranks' common x."""
        for moved in self._moved:
            moved.clear()

    def step(self, part: int, mean: Vector, alone: Sequence[int] = ()) -> None:
        """The step of one part, from its `mean`; `alone` are places in all of x, in the last round."""
        for moved, places in zip(self._moved, self.places, strict=True):
            moved.update({*range(places.start, places.stop)}.difference(alone))
        places, moved = self.places[part], self._moved[part]
        still = [place - places.start for place in range(places.start, places.stop) if place not in moved]
        self.steps[part].step(mean, still)
        moved.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [step.state_dict() for step in self.steps], "moved": [sorted(moved) for moved in self._moved]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for step, its_own in zip(self.steps, state["parts"], strict=True):
            step.load_state_dict(its_own)
        self._moved = [set(moved) for moved in state["moved"]]


def _build(settings: OuterSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    lr = settings.outer_lr
    assert lr is not None
    if settings.outer == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=(settings.outer_beta1, settings.outer_beta2))
    nesterov = settings.outer == "nesterov"
    return torch.optim.SGD(parameters, lr=lr, momentum=settings.outer_momentum, nesterov=nesterov)
