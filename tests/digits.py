"""A few random images in the files of MNIST, of CIFAR-10 and of ImageNet."""

import gzip
import hashlib
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvdclip.data.vision import torchvision


def write(root: Path, train: int = 60, test: int = 20) -> Path:
    """The folder of the files, images plain and labels packed."""
    folder, draw = root / "MNIST/raw", random.Random(1)
    folder.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        images = struct.pack(">4I", 0x803, count, 28, 28) + draw.randbytes(784 * count)
        labels = struct.pack(">2I", 0x801, count) + bytes(k % 10 for k in range(count))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def write_colours(root: Path, monkeypatch: Any, train: int = 60, test: int = 20) -> Path:
    """CIFAR-10's own files, of few random images, and torchvision told of their sums."""
    folder, draw = root / "cifar-10-batches-py", random.Random(1)
    folder.mkdir(parents=True)
    sums = {}
    for name, count in [*((f"data_batch_{k}", train // 5) for k in range(1, 6)), ("test_batch", test)]:
        pixels = np.frombuffer(draw.randbytes(3072 * count), np.uint8).reshape(count, 3072)
        sums[name] = _pickle(folder / name, {"data": pixels, "labels": [k % 10 for k in range(count)]})
    meta = _pickle(folder / "batches.meta", {"label_names": [str(k) for k in range(10)]})
    cifar = torchvision().datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[name, md5] for name, md5 in sums.items() if name != "test_batch"])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder


def write_folder(root: Path, train: int = 12, val: int = 4) -> Path:
    """JPEGs of several sizes, grey ones among them, in ImageNet's layout: root/{train,val}/{two classes}."""
    draw = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(("n01440764", "n01443537")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                shape = (40 + 3 * k, 60 - 2 * k) + (() if k == 2 else (3,))
                pixels = draw.integers(0, 128, shape) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{k}.JPEG")
    return root


def _pickle(file: Path, content: dict[str, Any]) -> str:
    file.write_bytes(pickle.dumps(content))
    return hashlib.md5(file.read_bytes()).hexdigest()
