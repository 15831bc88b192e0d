"""A small convolutional network for images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from .pixels import SHAPES, as_images

Share = Annotated[float, Field(ge=0, lt=1)]


class CNN(nn.Module):
    """Rows of pixels (batch, features) to logits (batch, classes), by two convolutions and two layers.

    ValueError where the rows are no images.
    """

    def __init__(self, features: int, classes: int, dropout: Share = 0.25):
        super().__init__()
        images = as_images(features)
        channels, side, _ = SHAPES[features]
        self.layers = nn.Sequential(
            images,
            *(nn.Conv2d(channels, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * (side // 4) ** 2, 128), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(128, classes)),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)
