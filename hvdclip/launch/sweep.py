"""A sweep: the runs of a grid of settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

# commas outside brackets, braces and quotes
COMMA = re.compile(r""",(?=(?:[^\[\]{}'"]|\[[^\]]*\]|\{[^}]*\}|'[^']*'|"[^"]*")*$)""")


def grid(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each run: key=a,b makes two runs, and several such keys make all combinations."""
    choices = []
    for override in overrides:
        key, _, values = override.partition("=")
        choices.append([f"{key}={value}" for value in COMMA.split(values)])
    return list(itertools.product(*choices))


def names(runs: Sequence[Sequence[str]]) -> Iterator[str]:
    """A folder's name for each run: its number, and what differs between the runs."""
    varying = [place for place, values in enumerate(zip(*runs, strict=True)) if len(set(values)) > 1]
    width = len(str(len(runs) - 1))
    for number, run in enumerate(runs):
        yield "-".join([f"{number:0{width}}", *(_short(run[place]) for place in varying)])


def _short(override: str) -> str:
    key, _, value = override.partition("=")
    return re.sub(r"[^\w.=+-]", "_", f"{key.rpartition('.')[2]}={value}")
