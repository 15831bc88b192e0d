"""The source text of Python's standard library: a corpus that is available wherever Python is."""

import os
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from .corpus import END, SPLITS, Corpus, encode

# Installed packages and tests are not the library's text; _sysconfigdata and config-* differ between machines.
LEFT_OUT = re.compile(r"site-packages|dist-packages|__pycache__|test|tests|idle_test|config-.*|_sysconfigdata.*\.py")
# The longest file (pydoc_data/topics.py, 6 % of the text) is in train, and valid and test have about 1/40 each.
PERIOD, VALID, TEST = 40, 2, 22
UNKNOWN = "<unk>"
TOKEN = re.compile(r"[^\W\d]\w*|\d[\w.]*|\n|[^\w\s]")  # an identifier, a number, a line's end, or one other character


def stdlib(level: Literal["byte", "word"] = "byte", vocabulary_limit: Annotated[int, Field(ge=2)] = 10_000) -> Corpus:
    """The *.py files of the running Python's standard library, without its tests: about 12 MB for Python 3.11.

    Sorted by name, every 40th file is valid text, another 40th test text. level "byte": the ids are the
    bytes. level "word": the vocabulary_limit most frequent words of train, ties in alphabetical order; others are
    <unk>, lines end with <eos>. ValueError for an impossible setting, FileNotFoundError if Python has no source text.
    """
    if level not in ("byte", "word"):
        raise ValueError(f'level={level!r}: must be "byte" or "word"')
    if not isinstance(vocabulary_limit, int) or vocabulary_limit < 2:
        raise ValueError(f"vocabulary_limit={vocabulary_limit!r}: must be a whole number of at least 2")
    texts = _texts()
    return _bytes(texts) if level == "byte" else _words(texts, vocabulary_limit)


def _bytes(texts: dict[str, bytes]) -> Corpus:
    # bytearray, because torch needs writable memory
    return Corpus({split: torch.frombuffer(bytearray(text), dtype=torch.uint8) for split, text in texts.items()})


def _words(texts: dict[str, bytes], limit: int) -> Corpus:
    tokens = {split: TOKEN.findall(text.decode("utf-8", errors="replace")) for split, text in texts.items()}
    counts = Counter(tokens["train"])
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: limit - 1]
    words = [UNKNOWN, *frequent]
    ids = {split: encode(tokens[split], words, unknown=0) for split in SPLITS}
    return Corpus(ids, tuple(END if word == "\n" else word for word in words))


def _texts() -> dict[str, bytes]:
    """The bytes of each split's files, one file after another."""
    root = Path(sysconfig.get_path("stdlib"))
    files = _files(root)
    if len(files) < PERIOD:
        raise FileNotFoundError(f"{root} has {len(files)} source files of the standard library, too few for a corpus")
    texts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for place, file in enumerate(files):
        split = {VALID: "valid", TEST: "test"}.get(place % PERIOD, "train")
        texts[split].append((root / file).read_bytes())
    return {split: b"".join(parts) for split, parts in texts.items()}


def _files(root: Path) -> list[str]:
    """The library's source files as paths relative to root, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name)]
        kept = [name for name in names if name.endswith(".py") and not LEFT_OUT.fullmatch(name)]
        found += [Path(folder, name).relative_to(root).as_posix() for name in kept]
    return sorted(found)
