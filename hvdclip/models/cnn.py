"""A small convolutional network for images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from .pixels import check_images

Share = Annotated[float, Field(ge=0, lt=1)]


class CNN(nn.Module):
    """Images (batch, *shape) to logits (batch, classes), by two convolutions and two layers.

    ValueError if the samples are not images, or smaller than 4 x 4.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, dropout: Share = 0.25):
        super().__init__()
        channels, height, width = check_images(shape, 4)
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * (height // 4) * (width // 4), 128), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(128, classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
