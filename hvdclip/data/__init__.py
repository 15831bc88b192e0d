"""Corpora by name, `load("wikitext-2", root="data")`, how ranks read them, and labelled rows."""

from collections.abc import Callable, Mapping
from typing import Any

from . import corpus, stdlib
from .cleaning import FlippedLabels, cleaning
from .columns import block, cut, even_lengths, sequence_lengths, windows
from .corpus import Corpus
from .drawn_windows import even_starts, shard, starts, windows_at
from .image_folder import image_folder
from .images import cifar10, cifar100
from .labelled import Labelled, Samples
from .mnist import mnist
from .synthetic import synthetic
from .token_files import check_ids, tokens

__all__ = [
    "BILEVEL",
    "BY_TORCHVISION",
    "CORPORA",
    "FROM_FILES",
    "IN_WINDOWS",
    "LABELLED",
    "Corpus",
    "Labelled",
    "Samples",
    "block",
    "check_ids",
    "cut",
    "even_lengths",
    "even_starts",
    "load",
    "sequence_lengths",
    "shard",
    "starts",
    "windows",
    "windows_at",
]

CORPORA: dict[str, Callable[..., Corpus]] = {
    "ptb": corpus.ptb,
    "stdlib": stdlib.stdlib,
    "tokens": tokens,
    "wikitext-2": corpus.wikitext2,
}

# corpora that only models without a state read, in windows
IN_WINDOWS = ("tokens",)

LABELLED: dict[str, Callable[..., Mapping[str, Samples]]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "mnist": mnist,
    "synthetic": synthetic,
}

# the data of bilevel algorithms
BILEVEL: dict[str, Callable[..., FlippedLabels]] = {"cleaning": cleaning}

# those of LABELLED whose samples are read from files one by one, and are never all in memory
FROM_FILES = ("image_folder",)
# those that torchvision reads
BY_TORCHVISION = ("cifar10", "cifar100", "image_folder")


def load(name: str, **settings: Any) -> Corpus:
    """The corpus of that name; ValueError for an unknown name or bad setting, FileNotFoundError for a missing file."""
    return _reader(name)(**settings)


def _reader(name: str) -> Callable[..., Corpus]:
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}; allowed: {', '.join(sorted(CORPORA))}")
    return CORPORA[name]
