"""Flat files of token ids, read by memory map: nanoGPT's layout, train.bin and valid.bin in one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .corpus import Corpus

META = "tokens.json"  # what `hvdclip tokenize` writes about the files
FILES = {"train": ("train.bin",), "valid": ("valid.bin", "val.bin"), "test": ("test.bin",)}
REQUIRED = ("train", "valid")
DTYPES = {"uint16": np.uint16, "uint32": np.uint32}
SAMPLES, SAMPLE = 64, 2**15  # pieces of a file, and tokens in each, that are checked before training


@dataclass(frozen=True, eq=False)
class TokenFiles(Corpus):
    """Token ids on disk: `splits` are views of the files; only what is read is in memory."""

    size: int = 0

    @property
    def unit(self) -> Literal["byte", "word", "token"]:
        return "byte" if self.size == 256 else "token"

    @property
    def vocabulary(self) -> int:
        return self.size

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the files' lengths and 64 evenly spaced pieces of each: whole files may be 100 GB."""
        digest = hashlib.sha256(str(self.size).encode())
        for name, ids in self.splits.items():
            digest.update(f"\n{name} {len(ids)} {ids.dtype}\n".encode())
            for piece in pieces(ids):
                digest.update(piece.numpy().tobytes())
        return digest.hexdigest()


def tokens(
    folder: str,
    vocabulary: Annotated[int, Field(ge=2)] | None = None,
    dtype: Literal["uint16", "uint32"] | None = None,
) -> TokenFiles:
    """Files of token ids, folder/train.bin, valid.bin (or val.bin) and possibly test.bin, made by hvdclip tokenize.

    Flat uint16 or uint32 numbers in this machine's byte order. `vocabulary` and `dtype` come from folder/tokens.json if
    it exists; otherwise `vocabulary` must be given and `dtype` is uint16. FileNotFoundError for a missing file,
    ValueError for a file of an odd size and for ids of at least `vocabulary`, as far as 64 pieces of each file show
    them.
    """
    place = Path(folder).expanduser()
    said = _meta(place)
    size, kind = vocabulary or said.get("vocabulary"), dtype or said.get("dtype", "uint16")
    if size is None:
        raise ValueError(f"data.vocabulary is missing, and {place / META} too; allowed: the tokenizer's number of ids")
    found = {split: _file(place, split) for split in FILES}
    splits = {split: mapped(file, DTYPES[kind]) for split, file in found.items() if file is not None}
    for split, ids in splits.items():
        for piece in pieces(ids):
            check_ids(piece, size, str(found[split]))
    return TokenFiles(splits, size=size)


def mapped(file: Path, dtype: type[np.generic]) -> Tensor:
    """A file's numbers; only what is read is in memory. ValueError if its size is not a whole number of them."""
    size, width = file.stat().st_size, np.dtype(dtype).itemsize
    if size == 0 or size % width:
        raise ValueError(
            f"{file} has {size:,} bytes; allowed: a multiple of {width}, since its ids are {dtype.__name__}"
        )
    # copy on write, because torch warns of memory that is not writable
    return torch.from_numpy(np.memmap(file, dtype=dtype, mode="c"))


def pieces(ids: Tensor) -> Iterator[Tensor]:
    """Evenly spaced pieces: the first is at the start of the file, the last at its end."""
    last = max(0, len(ids) - SAMPLE)
    for start in sorted({last * k // (SAMPLES - 1) for k in range(SAMPLES)}):
        yield ids[start : start + SAMPLE]


def check_ids(ids: Tensor, vocabulary: int, where: str) -> None:
    """ValueError for an id that the vocabulary does not have."""
    largest = int(ids.to(torch.int64).max())
    if largest >= vocabulary:
        raise ValueError(f"{where} has the token id {largest}; allowed: 0 to {vocabulary - 1}, by data.vocabulary")


def _meta(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / META).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / META} is not JSON ({error}); allowed: what hvdclip tokenize writes") from None
    return dict(said)


def _file(folder: Path, split: str) -> Path | None:
    names = FILES[split]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if split in REQUIRED:
        raise FileNotFoundError(
            f"{folder / names[0]} not found: data.folder is {str(folder)!r}; allowed: a folder with train.bin and "
            "valid.bin, which hvdclip tokenize makes"
        )
    return None
