"""Blocks: every peer in turn, in an order that rotates, so that other work on the machine affects all of them alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from hvdclip.comm import Communicator

# In a shorter time, a clock and a barrier are a part of the measurement: a block then repeats the run.
LEAST = 0.02
MOST_REPEATS = 64


@dataclass
class Peer:
    """Something to measure: only `run` is timed; times are per step, of its `steps`.

    `prepare` runs before the ranks meet, `begin` right before the clock starts, `end` after it stops.
    """

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    begin: Callable[[], Any] = lambda: None
    end: Callable[[], Any] = lambda: None
    steps: int = 1


@dataclass
class Blocks:
    """The seconds of a step of each peer in each block, on the slowest rank."""

    seconds: dict[str, list[float]]
    repeats: dict[str, int]
    orders: list[list[str]] = field(default_factory=list)

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def quartiles(self, name: str) -> tuple[float, float]:
        first, third = np.quantile(self.seconds[name], (0.25, 0.75))
        return float(first), float(third)

    def ratio(self, name: str, reference: str) -> float:
        """The ratio of the medians."""
        return self.median(name) / self.median(reference)

    def ratio_in_blocks(self, name: str, reference: str) -> float:
        """The median of the blocks' ratios: it removes what drifts more slowly than a block."""
        return float(np.median(np.divide(self.seconds[name], self.seconds[reference])))

    def as_json(self, name: str, references: Mapping[str, str | None]) -> dict[str, Any]:
        """All of one peer; `references` are the peers it is compared with, by the name of the ratio, if any."""
        return {
            "seconds": self.seconds[name],
            "median": self.median(name),
            "quartiles": self.quartiles(name),
            "repeats": self.repeats[name],
            "ratios": {
                ratio: {
                    "to": other,
                    "of_medians": self.ratio(name, other),
                    "in_blocks": self.ratio_in_blocks(name, other),
                }
                for ratio, other in references.items()
                if other is not None
            },
        }


def measure(peers: Sequence[Peer], comm: Communicator, blocks: int) -> Blocks:
    """The times of `blocks` blocks, after one that is discarded and decides how often each peer's run is repeated."""
    with _no_garbage_collection():
        found = {peer.name: _seconds(peer, 1, comm) for peer in peers}
        repeats = {name: min(MOST_REPEATS, math.ceil(LEAST / seconds)) for name, seconds in found.items()}
        measured = Blocks({peer.name: [] for peer in peers}, repeats)
        for block in range(blocks):
            start = block % len(peers)
            order = [*peers[start:], *peers[:start]]
            for peer in order:
                measured.seconds[peer.name].append(_seconds(peer, repeats[peer.name], comm) / peer.steps)
            measured.orders.append([peer.name for peer in order])
    return measured


def _seconds(peer: Peer, repeats: int, comm: Communicator) -> float:
    """The slowest rank's seconds: their median over the repeats."""
    own = []
    for _ in range(repeats):
        peer.prepare()
        comm.average_([torch.zeros(1)], "bench")  # a barrier
        peer.begin()
        wait_for_gpu()
        start = time.perf_counter()
        peer.run()
        wait_for_gpu()
        own.append(time.perf_counter() - start)
        peer.end()
    return median(map(max, zip(*comm.gather(own, "bench"), strict=True)))


def wait_for_gpu() -> None:
    """If CUDA is in use, wait until it has done its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
