"""A point: the model of problems that are functions of one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Point(nn.Module):
    """One float64 vector x with the shape of the start; for a bilevel problem also y."""

    def __init__(self, start: Tensor, lower_start: Tensor | None = None):
        super().__init__()
        self.x = nn.Parameter(start.detach().to(torch.float64).clone())
        if lower_start is not None:
            self.y = nn.Parameter(lower_start.detach().to(torch.float64).clone())
            self.upper, self.lower = [self.x], [self.y]

    def forward(self) -> Tensor:
        return self.x
