"""From text files to flat files of token ids, piece by piece, so that a text may be larger than the memory."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from hvdclip.checkpoints import durable

from .token_files import DTYPES, FILES, META

PIECE = 2**20  # bytes of text that are encoded at once, plus the rest of their last line
SPLITS = ("valid", "train")  # the split that may be too short comes first


class Tokenizer(Protocol):
    """Turns text into ids below `vocabulary`."""

    name: str
    vocabulary: int

    def encode(self, text: bytes, file: Path) -> Sequence[int] | np.ndarray: ...


class Bytes:
    """Each byte is its own id."""

    name, vocabulary = "bytes", 256

    def encode(self, text: bytes, file: Path) -> np.ndarray:
        return np.frombuffer(text, np.uint8)


class FromFile:
    """A tokenizer.json of the package tokenizers; ValueError if that is missing or cannot read the file."""

    def __init__(self, path: Path):
        try:
            made_by = importlib.import_module("tokenizers").Tokenizer
        except ImportError:
            raise ValueError(
                f"--tokenizer is {str(path)!r}, which needs the package tokenizers; allowed: bytes, or "
                "pip install tokenizers"
            ) from None
        try:
            self.made: Any = made_by.from_file(str(path))
        except Exception as error:  # the package raises plain exceptions
            raise ValueError(f"--tokenizer is {str(path)!r}; allowed: bytes, or a tokenizer.json ({error})") from None
        self.name, self.vocabulary = path.name, 1 + max(self.made.get_vocab().values())  # ids may have gaps

    def encode(self, text: bytes, file: Path) -> list[int]:
        try:
            return list(self.made.encode(text.decode(), add_special_tokens=False).ids)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}") from None


def tokenizer(name: str) -> Tokenizer:
    """`bytes`, or the file of a tokenizer."""
    return Bytes() if name == "bytes" else FromFile(Path(name))


def tokenize(texts: Sequence[Path], by: Tokenizer, folder: Path, valid: float) -> Iterator[str]:
    """Write folder/train.bin, valid.bin and tokens.json, and report each; the last share of each text is valid.

    A text is cut at the end of a line. FileExistsError if the folder already has such a file, FileNotFoundError for a
    missing text, ValueError if a split is too short for one prediction.
    """
    for name in (*(FILES[split][0] for split in SPLITS), META):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists already: remove it, or give another folder")
    for text in texts:
        if not text.is_file():
            raise FileNotFoundError(f"{text} not found; allowed: text files")
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "uint16" if by.vocabulary <= 2**16 else "uint32"
    said = {"tokenizer": by.name, "vocabulary": by.vocabulary, "dtype": dtype}
    with _removed_on_failure(folder / FILES[split][0] for split in SPLITS):
        for split in SPLITS:
            place = folder / FILES[split][0]
            written = _Ids(texts, by, dtype, split, valid)
            durable.write(place, written.write)
            if written.count < 2:
                raise ValueError(f"--valid is {valid}, which leaves {split} {written.count} tokens; allowed: 2 or more")
            yield f"{place}: {written.count:,} tokens, {dtype}"
        durable.write(folder / META, lambda sink: sink.write(json.dumps(said).encode()))


@contextmanager
def _removed_on_failure(files: Iterable[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise


class _Ids:
    """The ids of one split of all texts, and their number."""

    def __init__(self, texts: Sequence[Path], by: Tokenizer, dtype: str, split: str, valid: float):
        self.texts, self.by, self.dtype, self.split, self.valid = texts, by, DTYPES[dtype], split, valid
        self.count = 0

    def write(self, sink: durable.Sink) -> None:
        for text in self.texts:
            with text.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                cut = _line_end(file, int(size * (1 - self.valid)))
                for piece in _pieces(file, *((0, cut) if self.split == "train" else (cut, size))):
                    ids = np.asarray(self.by.encode(piece, text), dtype=self.dtype)
                    self.count += len(ids)
                    sink.write(ids.tobytes())


def _line_end(file: BinaryIO, place: int) -> int:
    """The end of the line that contains the byte before this place."""
    file.seek(max(0, place - 1))
    file.readline()
    return file.tell() if place else 0


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """The text between two line ends, in pieces that end with a line."""
    file.seek(start)
    while (place := file.tell()) < end:
        piece = file.read(min(PIECE, end - place))
        yield piece + (file.readline() if file.tell() < end else b"")
