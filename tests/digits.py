"""A few random digits in MNIST's own four files."""

import gzip
import random
import struct
from pathlib import Path


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
