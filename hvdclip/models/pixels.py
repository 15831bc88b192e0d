"""Rows of pixels as images."""

from torch import nn

SHAPES = {784: (1, 28, 28), 3072: (3, 32, 32)}


def as_images(features: int) -> nn.Unflatten:
    """Rows (batch, features) to images (batch, channels, height, width); ValueError for rows that are no images."""
    if features not in SHAPES:
        allowed = ", ".join(f"{size} ({' x '.join(map(str, shape))})" for size, shape in SHAPES.items())
        raise ValueError(f"the data have {features} features, so are no images; allowed: {allowed}")
    return nn.Unflatten(1, SHAPES[features])
