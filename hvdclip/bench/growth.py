"""How the times of a step and of a round grow with the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn

from hvdclip.bench.blocks import Blocks, Peer, measure
from hvdclip.bench.step import floor
from hvdclip.comm import Communicator
from hvdclip.methods import optimizer

TENSORS = 16
STEP, FLOOR, ROUND, BARE = "step", "floor of a step", "average", "bare average"
HELD_AGAINST = {STEP: FLOOR, ROUND: BARE}


class Growth:
    """The blocks of each number of floats."""

    def __init__(self, measured: dict[int, Blocks]):
        self.measured = measured

    def table(self) -> Table:
        table = Table("floats", title=f"growth with the number of floats, in {TENSORS} tensors")
        for name in (STEP, FLOOR, ROUND, BARE):
            table.add_column(f"{name}, ms", justify="right")
        for name, other in HELD_AGAINST.items():
            table.add_column(f"{name} to {other}", justify="right")
        for floats, blocks in self.measured.items():
            times = [f"{1e3 * blocks.median(name):.3g}" for name in (STEP, FLOOR, ROUND, BARE)]
            table.add_row(f"{floats:,}", *times, *(f"{blocks.ratio(*pair):.2f}" for pair in HELD_AGAINST.items()))
        return table

    def as_json(self) -> dict[str, Any]:
        return {"tensors": TENSORS, "sizes": [self._size(floats) for floats in self.measured]}

    def _size(self, floats: int) -> dict[str, Any]:
        blocks = self.measured[floats]
        return {
            "floats": floats,
            "orders": blocks.orders,
            "peers": {name: blocks.as_json(name, {"to reference": HELD_AGAINST.get(name)}) for name in blocks.seconds},
        }


def compare(sizes: Sequence[int], comm: Communicator, blocks: int) -> Growth:
    return Growth({floats: measure(_peers(floats, comm), comm, blocks) for floats in sizes})


def _peers(floats: int, comm: Communicator) -> list[Peer]:
    """All on the memory of one optimizer and one gradient, because 1e8 floats are 0.4 GB."""
    gradient = torch.full((floats,), 1e-3)
    params = [nn.Parameter(torch.zeros_like(part)) for part in gradient.chunk(TENSORS)]
    for p, part in zip(params, gradient.chunk(TENSORS), strict=True):
        p.grad = part
    ours = optimizer("celgc", params, comm=comm, lr=1.0, max_norm=1e-3, interval=10**9, drift=False)
    return [
        Peer(STEP, ours.step),
        Peer(FLOOR, partial(floor, ours.x.flats[0], gradient)),
        Peer(ROUND, ours.synchronize, ours.step),
        Peer(BARE, partial(comm.average_, ours.message.received, "bare")),
    ]


def sizes(text: str) -> list[int]:
    """The numbers in a list with commas; ValueError for one below the number of tensors."""
    try:
        found = [int(float(word)) for word in text.split(",")]
    except (ValueError, OverflowError):
        found = [0]
    if min(found) < TENSORS:
        raise ValueError(f"--shape is {text!r}; allowed: numbers of floats from {TENSORS}, separated by commas")
    return found
