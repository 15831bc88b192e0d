"""The outer step: the way of a round, x_round - mean x, taken as a gradient by a second optimizer.

Reddi et al., ICLR 2021 (adaptive federated optimization); Douillard et al., DiLoCo, 2023 (Nesterov outside).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hvdclip.flat import Vector
from hvdclip.settings.groups import OuterSettings


class OuterStep:
    """One outer optimizer, the same on all ranks, over x_round."""

    def __init__(self, settings: OuterSettings, x_round: Vector):
        self.x_round = x_round
        self._parameters = [nn.Parameter(flat) for flat in x_round.flats]
        self.optimizer = _build(settings, self._parameters)

    def step(self, mean: Vector) -> None:
        """From the mean over the ranks to the new x_round, which `mean` becomes too."""
        for parameter, flat in zip(self._parameters, mean.flats, strict=True):
            parameter.grad = parameter.detach() - flat
        self.optimizer.step()
        self.optimizer.zero_grad()
        mean.copy_(self.x_round)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def _build(settings: OuterSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    lr = settings.outer_lr
    assert lr is not None
    if settings.outer == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=(settings.outer_beta1, settings.outer_beta2))
    nesterov = settings.outer == "nesterov"
    return torch.optim.SGD(parameters, lr=lr, momentum=settings.outer_momentum, nesterov=nesterov)
