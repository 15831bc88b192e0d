"""Residual networks for small images."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from .pixels import check_images

Depth = Annotated[int, Field(ge=8)]
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut without parameters (option A): every second pixel, zero channels."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.stride, self.more = after // before, after - before
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(images)))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        if self.more:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return functional.relu(self.norm2(self.conv2(inner)) + shortcut)


class ResNet(nn.Module):
    """Images (batch, *shape) to logits (batch, classes), by 6n + 2 layers.

    ValueError for another depth, or if the samples are not images. Source: He, Zhang, Ren, Sun (2016), section 4.2.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, depth: Depth = 56):
        super().__init__()
        if depth % 6 != 2:
            raise ValueError(f"depth is {depth}; allowed: 6n + 2, such as 20, 32, 44, 56 and 110")
        blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(check_images(shape)[0], WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        widths = [width for width in WIDTHS for _ in range(blocks)]
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairwise([WIDTHS[0], *widths])))
        self.last = nn.Linear(WIDTHS[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(functional.relu(self.norm(self.conv(images))))
        return self.last(features.mean(dim=(2, 3)))
