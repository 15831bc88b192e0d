"""The link between the ranks: latency and bandwidth, from all-reduces of many sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from hvdclip.bench import worlds
from hvdclip.bench.blocks import Blocks, Peer, measure
from hvdclip.bench.roster import Roster
from hvdclip.bench.traffic import ring_share
from hvdclip.comm import Communicator

OURS, MPI = "hvdclip", "mpi4py"
LEAST, GROWTH = 4, 4  # bytes; each size is four times the previous one


@dataclass(frozen=True)
class Fit:
    """alpha + 2 (N - 1)/N S/B: seconds of latency, bytes a second, and the fit's errors relative to each time."""

    alpha: float
    bandwidth: float
    errors: dict[int, float]

    @property
    def error(self) -> float:
        """The median of the errors' sizes."""
        return float(np.median(np.abs(list(self.errors.values()))))

    def as_json(self) -> dict[str, Any]:
        return {"alpha_s": self.alpha, "bandwidth": self.bandwidth, "median_error": self.error, "errors": self.errors}


def fit(ranks: int, seconds: dict[int, float]) -> Fit:
    """From the seconds of each number of bytes, by least squares of relative errors."""
    sizes, times = np.array(list(seconds), dtype=float), np.array(list(seconds.values()))
    terms = np.stack([1 / times, sizes / times], axis=1)
    alpha, per_byte = np.linalg.lstsq(terms, np.ones_like(times), rcond=None)[0]
    if alpha <= 0:  # noise: only a bandwidth is left
        alpha, per_byte = 0.0, float(np.linalg.lstsq(terms[:, 1:], np.ones_like(times), rcond=None)[0][0])
    per_byte = max(per_byte, 1e-18)  # noise of small sizes: no bandwidth can be measured
    errors = (alpha + per_byte * sizes) / times - 1
    return Fit(float(alpha), ring_share(ranks) / float(per_byte), dict(zip(seconds, errors.tolist(), strict=True)))


@dataclass
class Found:
    """The blocks of all sizes and ways, and a fit of each way."""

    ranks: int
    blocks: Blocks
    fits: dict[str, Fit]
    absent: dict[str, str]

    def table(self) -> Table:
        caption = [
            f"{way}: latency {1e6 * fit.alpha:.1f} microseconds, bandwidth {fit.bandwidth / 1e9:.3g} GB/s "
            f"({fit.bandwidth / 1.25e8:.3g} gbit/s); median error of the fit {fit.error:.0%}"
            for way, fit in self.fits.items()
        ]
        caption += [f"absent: {name}, since {reason}" for name, reason in self.absent.items()]
        title = f"all-reduces on {self.ranks} ranks: alpha + 2 (N - 1)/N S/B"
        table = Table("bytes", title=title, caption="\n".join(caption), caption_justify="left")
        for way in self.fits:
            for column in (f"{way}, ms", "quartiles", "fit, ms", "error"):
                table.add_column(column, justify="right")
        for size in next(iter(self.fits.values())).errors:
            table.add_row(f"{size:,}", *(cell for way in self.fits for cell in self._cells(way, size)))
        return table

    def as_json(self) -> dict[str, Any]:
        peers = {name: self.blocks.as_json(name, {}) for name in self.blocks.seconds}
        return {
            "fits": {way: fit.as_json() for way, fit in self.fits.items()},
            "peers": peers,
            "orders": self.blocks.orders,
            "absent": self.absent,
        }

    def _cells(self, way: str, size: int) -> list[str]:
        name, error = _name(way, size), self.fits[way].errors[size]
        median, (first, third) = self.blocks.median(name), self.blocks.quartiles(name)
        fitted = f"{1e3 * median * (1 + error):.3g}"
        return [f"{1e3 * median:.3g}", f"{1e3 * first:.3g} to {1e3 * third:.3g}", fitted, f"{error:+.0%}"]


def compare(sizes: Sequence[int], comm: Communicator, blocks: int) -> Found:
    roster, ways, memory = Roster(comm), {OURS: _ours, MPI: _mpi}, torch.zeros(sizes[-1] // 4)
    for way, make in ways.items():
        for size in sizes:
            roster.add(_name(way, size), partial(make, size, memory[: size // 4], comm))
    measured = measure(list(roster.peers.values()), comm, blocks)
    fits = {
        way: fit(comm.size, {size: measured.median(_name(way, size)) for size in sizes})
        for way in ways
        if _name(way, sizes[0]) in roster.peers
    }
    absent = {name.partition(",")[0]: reason for name, reason in roster.absent.items()}
    return Found(comm.size, measured, fits, absent)


def _name(way: str, size: int) -> str:
    return f"{way}, {size} bytes"


def _ours(size: int, vector: Tensor, comm: Communicator) -> Peer:
    return Peer(_name(OURS, size), partial(comm.average_, [vector], "bench"))


def _mpi(size: int, vector: Tensor, comm: Communicator) -> Peer:
    mpi = worlds.mpi(comm)
    return Peer(_name(MPI, size), partial(mpi.COMM_WORLD.Allreduce, mpi.IN_PLACE, vector.numpy()))


def sizes(largest_mib: float) -> list[int]:
    """4 bytes, four times as many, ... up to that many MiB."""
    found = [LEAST]
    while found[-1] * GROWTH <= largest_mib * 2**20:
        found.append(found[-1] * GROWTH)
    return found
