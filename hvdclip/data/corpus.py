"""A text as token ids, and the two corpora of the papers read from plain files."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .folder import data_folder

SPLITS = ("train", "valid", "test")
END = "<eos>"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token ids of the train, valid and test text, each 1-D: uint8 if they are bytes (words None), else int32."""

    splits: dict[str, Tensor]
    words: tuple[str, ...] | None = None

    @property
    def unit(self) -> Literal["byte", "word", "token"]:
        return "byte" if self.words is None else "word"

    @property
    def vocabulary(self) -> int:
        return 256 if self.words is None else len(self.words)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all ids and words, by which ranks see that they read the same text."""
        digest = hashlib.sha256("\n".join(self.words or ()).encode())
        for name, ids in self.splits.items():
            digest.update(f"\n{name} {len(ids)}\n".encode())
            digest.update(ids.numpy().tobytes())
        return digest.hexdigest()


def wikitext2(root: str | None = None) -> Corpus:
    """WikiText-2 (Merity et al. 2016): 2,088,628, 217,646 and 245,569 tokens of 33,278 words.

    Reads root/wikitext-2/{train,valid,test}.txt; root defaults to the environment variable HVDCLIP_DATA.
    """
    return _read(root, "wikitext-2")


def ptb(root: str | None = None) -> Corpus:
    """The Penn Treebank as Mikolov et al. (2010) prepared it: 929,589, 73,760 and 82,430 tokens of 10,000 words.

    Reads root/ptb/{train,valid,test}.txt; root defaults to the environment variable HVDCLIP_DATA.
    """
    return _read(root, "ptb")


def encode(tokens: Sequence[str], words: Iterable[str], unknown: int | None = None) -> Tensor:
    """Each token's place among the words, int32; KeyError for a token that is not among them if unknown is None."""
    index = {word: place for place, word in enumerate(words)}
    places = map(index.__getitem__, tokens) if unknown is None else (index.get(token, unknown) for token in tokens)
    return torch.from_numpy(np.fromiter(places, dtype=np.int32, count=len(tokens)))


def _read(root: str | None, name: str) -> Corpus:
    folder = data_folder(root, name) / name
    tokens = {split: _tokens(folder / f"{split}.txt") for split in SPLITS}
    words = tuple(dict.fromkeys(chain.from_iterable(tokens.values())))  # in order of first occurrence, train first
    return Corpus({split: encode(tokens[split], words) for split in SPLITS}, words)


def _tokens(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: put the {path.stem} text of {path.parent.name} there (plain text, words separated by "
            f"spaces); the folder {path.parent.parent} is data.root, by default the environment variable HVDCLIP_DATA"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: it should hold the {path.stem} text of {path.parent.name}")
    lines = text if text.endswith("\n") else text + "\n"
    return lines.replace("\n", f" {END} ").split()
