"""How ranks read one text in windows: each rank its own part of it, at places drawn from seed, step and rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def shard(text: Tensor, rank: int, ranks: int, window: int) -> Tensor:
    """A rank's part of the text: the ranks' parts are disjoint and equally long; ValueError for less than a window."""
    length = len(text) // ranks
    if length <= window:
        raise ValueError(
            f"data.window is {window}; allowed: up to {max(0, length - 1)}, since each of {ranks} ranks reads its own "
            f"{length:,} of {len(text):,} tokens"
        )
    return text[rank * length : (rank + 1) * length]


def starts(length: int, window: int, batch: int, key: Sequence[int]) -> list[int]:
    """Where the windows of a batch begin in a text of so many tokens, drawn from `key`."""
    drawn = np.random.default_rng(tuple(key)).integers(0, length - window, size=batch)
    return [int(start) for start in drawn]


def even_starts(length: int, window: int, most: int | None) -> list[int]:
    """Where consecutive windows begin; if there are more than `most`, that many evenly spread ones."""
    number = (length - 1) // window
    chosen = range(number) if most is None or most >= number else [number * k // most for k in range(most)]
    return [window * k for k in chosen]


def windows_at(text: Tensor, starts: Sequence[int], window: int) -> tuple[Tensor, Tensor]:
    """(tokens, targets), int64 (batch, window) each, targets one token ahead."""
    rows = torch.stack([text[start : start + window + 1].to(torch.int64) for start in starts])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
