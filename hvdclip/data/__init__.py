"""Corpora by name, `load("wikitext-2", root="data")`, the columns in which ranks read them, and labelled rows."""

from collections.abc import Callable, Mapping
from typing import Any

from . import corpus, stdlib
from .columns import block, cut, even_lengths, sequence_lengths, windows
from .corpus import Corpus
from .image_folder import image_folder
from .images import cifar10, cifar100
from .labelled import Labelled, Samples
from .mnist import mnist
from .synthetic import synthetic

__all__ = [
    "BY_TORCHVISION",
    "CORPORA",
    "FROM_FILES",
    "LABELLED",
    "Corpus",
    "Labelled",
    "Samples",
    "block",
    "cut",
    "even_lengths",
    "load",
    "sequence_lengths",
    "windows",
]

CORPORA: dict[str, Callable[..., Corpus]] = {
    "ptb": corpus.ptb,
    "stdlib": stdlib.stdlib,
    "wikitext-2": corpus.wikitext2,
}

LABELLED: dict[str, Callable[..., Mapping[str, Samples]]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "mnist": mnist,
    "synthetic": synthetic,
}

# those of LABELLED whose samples are read from files one by one, and never are all in memory
FROM_FILES = ("image_folder",)
# those that torchvision reads
BY_TORCHVISION = ("cifar10", "cifar100", "image_folder")


def load(name: str, **settings: Any) -> Corpus:
    """The corpus of that name; ValueError for an unknown name or bad setting, FileNotFoundError for a missing file."""
    return _reader(name)(**settings)


def _reader(name: str) -> Callable[..., Corpus]:
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(sorted(CORPORA))}")
    return CORPORA[name]
