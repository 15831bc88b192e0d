"""Images as files, a folder for each class: ImageNet's layout, through torchvision's ImageFolder and transforms."""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hvdclip.data.vision import torchvision

from .drawing import drawn_by
from .folder import data_folder
from .images import Scale

Side = Annotated[int, Field(ge=1)]
# mean and deviation of ImageNet's train pixels, from 0 to 1, by channel
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 256 / 224  # the shorter side of a resized image, in sides; an evaluation cuts out its middle


class ImageFolder:
    """Images of root/CLASS/*, decoded when they are read, or all at once if `in_memory`.

    If `augmented`, training draws (from a seed) a random part of the image, resized, or its mirror image; otherwise it
    is the middle of the resized image. ValueError for files that cannot be decoded.
    """

    def __init__(self, root: Path, side: int, augmented: bool, in_memory: bool):
        try:
            # allow_empty: a class may have images in one split only, and must keep its number
            self.files = torchvision().datasets.ImageFolder(str(root), allow_empty=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{root} has no folders of images, one for each class; its parent is data.root, by default the "
                "environment variable HVDCLIP_DATA"
            ) from None
        if not self.files.samples:
            raise FileNotFoundError(f"{root} has no images in its {len(self.files.classes)} folders of classes")
        self.root, self.side, self.augmented = root, side, augmented
        self.shape, self.classes = (3, side, side), len(self.files.classes)
        self.place = torch.device("cpu")
        self.labels = torch.tensor(self.files.targets)
        self._images = [self._decode(number) for number in range(len(self.labels))] if in_memory else None

    def rows(self, chosen: Tensor, seed: int | None = None) -> Tensor:
        images = [self._images[k] if self._images else self._decode(k) for k in chosen.tolist()]
        if self.augmented and seed is not None:
            with drawn_by(seed):
                return self._scale(torch.stack([self._draw(image) for image in images]))
        return self._scale(torch.stack([self._middle(image) for image in images]))

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the files' names; their contents are read only when they are needed."""
        names = (f"{Path(path).relative_to(self.root)}\n" for path, _ in self.files.samples)
        return hashlib.sha256("".join(names).encode()).hexdigest()

    def _decode(self, number: int) -> Tensor:
        path, _ = self.files.samples[number]
        try:
            return torchvision().transforms.v2.functional.pil_to_tensor(self.files.loader(path))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            raise ValueError(f"{path} is not an image, or is damaged: {error}") from None

    @cached_property
    def _draw(self) -> Any:
        v2 = torchvision().transforms.v2
        return v2.Compose([v2.RandomResizedCrop(self.side, antialias=True), v2.RandomHorizontalFlip()])

    @cached_property
    def _middle(self) -> Any:
        v2 = torchvision().transforms.v2
        return v2.Compose([v2.Resize(round(self.side * MARGIN), antialias=True), v2.CenterCrop(self.side)])

    @cached_property
    def _scale(self) -> Scale:
        return Scale(IMAGENET, self.place)


def image_folder(
    root: str | None = None,
    train: str = "train",
    val: str = "val",
    side: Side = 224,
    augment: bool = True,
    in_memory: bool = False,
) -> dict[str, ImageFolder]:
    """root/train/CLASS/* and root/val/CLASS/* as images of (3, side, side), in as many classes as there are folders.

    root defaults to the environment variable HVDCLIP_DATA. ValueError without a root or if the splits have different
    classes, FileNotFoundError without images.
    """
    folder = data_folder(root, "image_folder")
    splits = {
        "train": _split(folder / train, side, augment, in_memory),
        "val": _split(folder / val, side, False, in_memory),
    }
    if splits["train"].files.classes != splits["val"].files.classes:
        odd = sorted({*splits["train"].files.classes} ^ {*splits["val"].files.classes})
        raise ValueError(
            f"{folder}: {train} and {val} have different folders of classes: {', '.join(odd[:5])} in one only"
        )
    return splits


@cache  # simulated ranks share one copy
def _split(root: Path, side: int, augmented: bool, in_memory: bool) -> ImageFolder:
    return ImageFolder(root, side, augmented, in_memory)
