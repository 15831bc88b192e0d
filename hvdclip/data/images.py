"""Small colour images, each with a label, through torchvision's own datasets and transforms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from hvdclip.data.vision import torchvision

from .drawing import drawn_by
from .folder import data_folder
from .labelled import Labelled

# mean and deviation of the train pixels, from 0 to 1, by channel
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
PADDING = 4
Moments = tuple[tuple[float, ...], tuple[float, ...]]  # (means, deviations)


@dataclass(frozen=True, eq=False)
class Images(Labelled):
    """Features are bytes, and become numbers with mean 0 and deviation 1 when they are read.

    If `augmented`, training draws (from a seed) a random crop of the padded image, or its mirror image.
    """

    moments: Moments
    augmented: bool = False

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        images = super().rows(chosen)
        if self.augmented and seed is not None:
            with drawn_by(seed):
                images = torch.stack([self._augment(image) for image in images])
        return self._scale(images)

    @cached_property
    def _augment(self) -> Any:
        v2 = torchvision().transforms.v2
        return v2.Compose([v2.RandomCrop(self.shape[1:], padding=PADDING), v2.RandomHorizontalFlip()])

    @cached_property
    def _scale(self) -> Scale:
        return Scale(self.moments, self.place)


class Scale:
    """From bytes to numbers with mean 0 and deviation 1, by channel.

    Like torchvision's ToDtype and Normalize, which would copy their numbers to a GPU each time.
    """

    def __init__(self, moments: Moments, place: torch.device):
        self.mean, self.deviation = (torch.tensor(moment, device=place).view(-1, 1, 1) for moment in moments)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255).sub_(self.mean).div_(self.deviation)


def cifar10(root: str | None = None, augment: bool = True) -> dict[str, Labelled]:
    """50,000 train and 10,000 test images of 32 x 32 pixels in 10 classes.

    Reads root/cifar-10-batches-py, as torchvision does; root defaults to the environment variable HVDCLIP_DATA.
    ValueError without a root, FileNotFoundError if the files are missing or damaged.
    """
    return _both("CIFAR10", str(data_folder(root, "cifar10")), CIFAR10, augment)


def cifar100(root: str | None = None, augment: bool = True) -> dict[str, Labelled]:
    """The same in 100 classes; reads root/cifar-100-python."""
    return _both("CIFAR100", str(data_folder(root, "cifar100")), CIFAR100, augment)


def _both(name: str, root: str, moments: Any, augment: bool) -> dict[str, Labelled]:
    return {split: _split(name, root, split, moments, augment) for split in ("train", "test")}


@cache  # simulated ranks share one copy
def _split(name: str, root: str, split: str, moments: Any, augmented: bool) -> Images:
    try:
        found = getattr(torchvision().datasets, name)(root, train=split == "train")
    except RuntimeError:
        raise FileNotFoundError(
            f"{root} does not have all of {name}: hvdclip data {name.lower()} downloads it, where there is a network; "
            "the folder is data.root, by default the environment variable HVDCLIP_DATA"
        ) from None
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(found.targets), moments, augmented)
