"""Long tensors in pieces: MPI counts what it sends in a C int, so it takes fewer than 2^31 entries at once.

Ranks of one machine average shorter pieces, one after another: a ring reads and writes each entry many times, which is
faster while a piece stays in the caches.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Entries that one call carries, of all ranks together for a gather: half of what a C int can count, because some of an
# MPI's algorithms for gathers add up two counts.
MOST = 2**30
# Entries of a piece that stays in the caches. It is not measured anew in each run: where a vector is cut decides the
# order in which entries of three and more ranks are summed, and so the last bit.
CACHED = 2**21


def number_of(entries: int, ranks: int = 1, most: int | None = None) -> int:
    """The number of calls that it takes to carry so many entries of each rank, at most `most` of them (MOST) a call."""
    return max(1, -(-entries // _share(ranks, most)))


def spans(entries: int, ranks: int = 1, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Where the pieces of each rank's entries begin and end: at least one piece, which may be empty."""
    share = _share(ranks, most)
    for start in range(0, max(1, entries), share):
        yield start, min(entries, start + share)


def _share(ranks: int, most: int | None) -> int:
    return max(1, (most or MOST) // ranks)


def pieces(tensor: Tensor, most: int | None = None) -> list[Tensor]:
    """The contiguous tensor itself if it is short, otherwise flat parts that share its memory."""
    if number_of(tensor.numel(), most=most) == 1:
        return [tensor]
    flat = tensor.detach().view(-1)
    return [flat[start:stop] for start, stop in spans(len(flat), most=most)]


def start_to_gather(
    tensor: Tensor, ranks: int, start: Callable[[Tensor, int], Callable[[], list[Tensor]]]
) -> Callable[[], list[Tensor]]:
    """Gathers the contiguous tensors of all ranks by `start`, which gets each piece and its number."""
    if number_of(tensor.numel(), ranks) == 1:
        return start(tensor, 0)
    flat = tensor.detach().view(-1)
    started = [start(flat[first:last], i) for i, (first, last) in enumerate(spans(len(flat), ranks))]

    def finish() -> list[Tensor]:
        of_ranks = zip(*(wait() for wait in started), strict=True)
        return [torch.cat(parts).view(tensor.shape) for parts in of_ranks]

    return finish


def all_to_all(rows: Tensor, call: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Row j to rank j by `call`, which gets some of the columns, as rows, and the piece's number."""
    columns = rows.detach().flatten(1)
    if number_of(columns.shape[1], len(rows)) == 1:
        return call(rows, 0)
    cuts = enumerate(spans(columns.shape[1], len(rows)))
    return torch.cat([call(columns[:, first:last].contiguous(), i) for i, (first, last) in cuts], 1).view(rows.shape)


def gather_pickled(value: Any, all_gather: Callable[[Tensor, str], list[Tensor]]) -> list[Any]:
    """The picklable values of all ranks by `all_gather`, which takes tensors of equal shape, and a name."""
    mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    lengths = [int(length) for length in all_gather(torch.tensor([len(mine)]), "length")]
    padded = torch.nn.functional.pad(mine, (0, max(lengths) - len(mine)))
    everyone = zip(all_gather(padded, "value"), lengths, strict=True)
    return [pickle.loads(sent[:length].numpy().data) for sent, length in everyone]
