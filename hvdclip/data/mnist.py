"""Handwritten digits (LeCun, Cortes, Burges), from their own files."""

import gzip
import math
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .folder import data_folder
from .labelled import Labelled

MEAN, DEVIATION = 0.1307, 0.3081  # of the train pixels, from 0 to 1


def mnist(root: str | None = None, rgb: bool = False) -> dict[str, Labelled]:
    """60,000 train and 10,000 test digits as float32 images (1, 28, 28), of mean 0 and deviation 1 in the train set.

    With `rgb` each grey value appears as red, green and blue: (3, 28, 28). Reads
    root/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or with .gz; root defaults to the environment
    variable HVDCLIP_DATA. ValueError without a root or for a damaged file, FileNotFoundError for a missing one.
    """
    folder = data_folder(root, "mnist") / "MNIST/raw"
    found = {split: _split(folder, prefix) for split, prefix in (("train", "train"), ("test", "t10k"))}
    return {split: _in_colours(grey) for split, grey in found.items()} if rgb else found


@cache
def _in_colours(grey: Labelled) -> Labelled:
    return Labelled(grey.features.expand(-1, 3, -1, -1), grey.labels)


@cache  # simulated ranks share one copy
def _split(folder: Path, prefix: str) -> Labelled:
    images, labels = (_idx(folder / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max() > 9:
        raise ValueError(
            f"{folder}/{prefix}-*: images of shape {tuple(images.shape)} and {len(labels)} labels up to {labels.max()} "
            "are not MNIST's, which are of 28 x 28 pixels with a label from 0 to 9 each"
        )
    pixels = images[:, None].float() / 255
    return Labelled((pixels - MEAN) / DEVIATION, labels.long())


def _idx(path: Path) -> Tensor:
    """The bytes of an IDX file in its shape: two zeros, 8 for bytes, the number of axes, their lengths, the bytes."""
    content = _content(path)
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * axes
    shape = np.frombuffer(content[4:header], dtype=">u4").tolist() if axes and len(content) >= header else []
    if not shape or 0 in shape or len(content) != header + math.prod(shape):
        raise ValueError(f"{path} is not an IDX file of bytes, or is damaged: it has {len(content)} bytes")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).copy()).view(shape)


def _content(path: Path) -> bytes:
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        return path.read_bytes()
    if not packed.is_file():
        raise FileNotFoundError(
            f"{path} not found, nor with .gz: put MNIST's own files there; the folder {path.parent.parent.parent} is "
            "data.root, by default the environment variable HVDCLIP_DATA"
        )
    try:
        return gzip.decompress(packed.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{packed} is damaged: {error}") from None
