"""How ranks read one text: it is cut into columns, each rank has a block of them, all with the same random windows."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def cut(tokens: Tensor, columns: int) -> Tensor:
    """The text as a tensor (length, columns): each column is contiguous text, the remainder is dropped.

    For training columns = batch x ranks. ValueError if a column would have fewer than the 2 tokens of one prediction.
    """
    length = len(tokens) // columns
    if length < 2:
        raise ValueError(
            f"a text of {len(tokens)} tokens is too short for {columns} columns (batch x ranks), which need at least "
            f"{2 * columns}: lower the batch or the number of ranks"
        )
    return tokens[: length * columns].view(columns, length).t().contiguous()


def block(columns: Tensor, rank: int, ranks: int, epoch: int) -> Tensor:
    """The (length, batch) columns that a rank reads in an epoch: block (rank + epoch) mod ranks, so all in turn."""
    batch, remainder = divmod(columns.shape[1], ranks)
    if remainder:
        raise ValueError(f"{columns.shape[1]} columns cannot be shared out equally among {ranks} ranks")
    place = (rank + epoch) % ranks
    return columns[:, place * batch : (place + 1) * batch]


def sequence_lengths(total: int, bptt: int, seed: int, epoch: int) -> list[int]:
    """The random window lengths of one epoch over columns of `total` tokens, the same on every rank.

    bptt, or with probability 0.05 half of it, plus Gaussian noise of deviation 5; at least 5, only the last may be
    shorter. They add up to total - 1, the number of predictions (Merity et al. 2018).
    """
    draws = np.random.default_rng((seed, epoch))
    lengths = []
    left = total - 1
    while left > 0:
        base = bptt if draws.random() < 0.95 else bptt / 2
        lengths.append(min(left, max(5, int(draws.normal(base, 5)))))
        left -= lengths[-1]
    return lengths


def even_lengths(total: int, bptt: int) -> list[int]:
    """Window lengths of bptt, the last shorter, that add up to total - 1: for evaluation."""
    return [min(bptt, total - 1 - start) for start in range(0, total - 1, bptt)]


def windows(columns: Tensor, lengths: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive (tokens, targets), int64 (time, batch) each, targets one token ahead.

    To continue in the middle of an epoch, after k windows: `windows(columns[sum(lengths[:k]):], lengths[k:])`.
    ValueError if the lengths need more predictions than the columns have.
    """
    if sum(lengths) >= len(columns):
        raise ValueError(f"windows of {sum(lengths)} predictions in all exceed columns of {len(columns)} tokens")
    start = 0
    for length in lengths:
        text = columns[start : start + length + 1].to(torch.int64)
        yield text[:-1].contiguous(), text[1:].contiguous()
        start += length
