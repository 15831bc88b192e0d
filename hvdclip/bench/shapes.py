"""The shapes of models whose parameters are stepped and averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from hvdclip.comm import Communicator
from hvdclip.messages.statistics import Statistics
from hvdclip.models import build
from hvdclip.models.no_device import on_no_device

Shape = tuple[int, ...]


def awd_lstm() -> list[Shape]:
    """The AWD-LSTM for the Penn Treebank's 10,000 words: few tensors, large ones."""
    with on_no_device():
        return [tuple(p.shape) for p in build("awd_lstm", vocabulary=10_000).parameters()]


def resnet56() -> list[Shape]:
    """He et al.'s ResNet-56 for CIFAR-10, with shortcuts that have no parameters: many tensors, small ones."""
    widths = [16] + [width for width in (16, 32, 64) for _ in range(18)]
    convolutions = [_convolution(3, 16, 3), *(_convolution(a, b, 3) for a, b in pairwise(widths))]
    return [*chain.from_iterable(convolutions), (10, 64), (10,)]


def resnet50() -> list[Shape]:
    """He et al.'s ResNet-50 for ImageNet, in torchvision's order."""
    return [*_convolution(3, 64, 7), *_bottlenecks(), (1000, 2048), (1000,)]


def small() -> list[Shape]:
    """A perceptron, for trying things out."""
    return [(64, 32), (64,), (64, 64), (64,), (10, 64), (10,)]


def _convolution(inputs: int, outputs: int, width: int) -> list[Shape]:
    """A convolution without bias, and its batch normalisation."""
    return [(outputs, inputs, width, width), (outputs,), (outputs,)]


def _bottlenecks() -> Iterator[Shape]:
    inputs = 64
    for width, number in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(number):
            yield from _convolution(inputs, width, 1)
            yield from _convolution(width, width, 3)
            yield from _convolution(width, 4 * width, 1)
            if block == 0:
                yield from _convolution(inputs, 4 * width, 1)
            inputs = 4 * width


SHAPES: dict[str, Callable[[], list[Shape]]] = {f.__name__: f for f in (awd_lstm, resnet56, resnet50, small)}


def shapes(name: str) -> list[Shape]:
    """The shapes with that name; ValueError lists all names."""
    if name not in SHAPES:
        raise ValueError(f"shape {name!r} is unknown; allowed: {', '.join(SHAPES)}")
    return SHAPES[name]()


def parameters(of: list[Shape], device: torch.device | str = "cpu") -> list[nn.Parameter]:
    """Parameters of these shapes, drawn as a layer's are; every rank and every call draws the same ones."""
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.empty(shape).uniform_(-0.1, 0.1, generator=generator) for shape in of)
    return [nn.Parameter(values.to(device)) for values in drawn]


def message(sizes: Sequence[int], comm: Communicator) -> Tensor:
    """A vector as long as the message of tensors of these sizes, statistics included."""
    return torch.zeros(sum(sizes) + Statistics(comm, len(sizes)).size)


def size_in_words(of: list[Shape]) -> str:
    return f"{sum(torch.Size(shape).numel() for shape in of):,} floats in {len(of)} tensors"
