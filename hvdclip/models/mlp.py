"""A multi-layer perceptron for labelled rows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

Width = Annotated[int, Field(ge=1)]


class MLP(nn.Module):
    """Samples (batch, *shape) to logits (batch, classes), through ReLU layers of the widths in `hidden`."""

    def __init__(self, shape: tuple[int, ...], classes: int, hidden: list[Width] = [64]):  # noqa: B006
        super().__init__()
        widths = [math.prod(shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, samples: Tensor) -> Tensor:
        return self.layers(samples)
