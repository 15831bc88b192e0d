"""A scaling study: one configuration on several numbers of ranks, and its results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hvdclip.scaling.fit import Measured, Model, errors, fit, split

STUDY, ALONE = "study.json", "alone"
REAL, SYNTHETIC = "real", "synthetic"  # the data as they come, or one batch again and again
RESAMPLES = 2000
KEYS = {"interval", "data", "samples", "seconds", "parts", "work", "bytes", "sent"}  # of a point


@dataclass(frozen=True)
class Row:
    """One point of a study: the results of `hvdclip bench points`, and the number of ranks."""

    ranks: int
    found: dict[str, Any]

    @property
    def interval(self) -> int:
        return self.found["interval"]

    @property
    def data(self) -> str:
        return self.found["data"]

    @property
    def seconds(self) -> float:
        """Seconds of a step on the slowest rank, the median over the blocks."""
        return float(np.median(self.found["seconds"]))

    @property
    def rates(self) -> np.ndarray:
        """Samples per second of all ranks, in each block."""
        return np.array(self.found["samples"]) / np.array(self.found["seconds"])

    def part(self, name: str) -> float:
        """Seconds of a step that go into a part, the median over the blocks."""
        return float(np.median(self.found["parts"][name]))

    def work_and_slack(self) -> tuple[float, float]:
        """Seconds of a step that the slowest rank works, and that ranks wait in addition, medians over the blocks."""
        work = np.array(self.found["work"])
        slowest = work.max(axis=1)
        slack = self.found["parts"]["waiting"] - (slowest - work.mean(axis=1))
        return float(np.median(slowest)), max(0.0, float(np.median(slack)))

    @property
    def bytes_a_sample(self) -> float:
        """Bytes that a rank sends for each of its samples."""
        return self.found["bytes"] / (float(np.mean(self.found["samples"])) / self.ranks)

    @property
    def wire_a_sample(self) -> float:
        """Bytes that all hosts have sent over the network per sample of all ranks, the median over the blocks."""
        return float(np.median(self.found["sent"])) / float(np.mean(self.found["samples"]))

    @property
    def payload(self) -> float:
        """Bytes that a rank sends in a round."""
        return self.found["bytes"] * self.interval


@dataclass(frozen=True)
class Study:
    """Rows of real ranks, and those of one process without Horovod."""

    made: dict[str, Any]
    rows: list[Row]
    alone: list[Row]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study in a folder; FileNotFoundError if there is none, ValueError for a damaged one."""
        file = folder / STUDY
        if not file.exists():
            raise FileNotFoundError(
                f"{folder} has no study: there is no {STUDY} in it; hvdclip bench scaling makes one"
            )
        try:
            found = json.loads(file.read_text())
        except ValueError:
            raise ValueError(f"{file} is damaged: it is not JSON") from None
        try:
            in_order = sorted((int(ranks), made["points"]) for ranks, made in found["ranks"].items())
            rows = [Row(ranks, point) for ranks, points in in_order for point in points]
            alone = [Row(1, point) for point in found[ALONE]["points"]]
            whole = {"strong", "config"} <= found.keys() and all(row.found.keys() >= KEYS for row in (*rows, *alone))
        except (AttributeError, KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise ValueError(
                f"{file} is damaged, or of another version: not everything that bench scaling writes is in it"
            )
        return cls(found, rows, alone)

    def base(self, data: str = REAL) -> float:
        """X(1): samples per second of one process without Horovod that reads the same, over the blocks of all I."""
        return float(np.median(np.concatenate([row.rates for row in self.alone if row.data == data])))

    def efficiency(self, row: Row) -> float:
        """E(N) = X(N)/(N X(1))."""
        return float(np.median(row.rates)) / (row.ranks * self.base(row.data))

    @cached_property
    def measured(self) -> dict[tuple[int, int], Measured]:
        """By N and I, on the real data."""
        return {
            (row.ranks, row.interval): Measured(
                row.ranks, row.interval, row.seconds, *row.work_and_slack(), row.payload
            )
            for row in self.rows
            if row.data == REAL
        }

    @cached_property
    def held_out(self) -> set[tuple[int, int]]:
        """(N, I) of the points that the model was not fitted to."""
        return {(point.ranks, point.interval) for point in self._halves[1]}

    @cached_property
    def model(self) -> Model:
        return fit(self._halves[0])

    @cached_property
    def _halves(self) -> tuple[list[Measured], list[Measured]]:
        return split(list(self.measured.values()))

    def stragglers(self) -> Iterator[tuple[int, str, int, float]]:
        """(ranks, host, rank, its own work relative to the ranks' mean), the median over all points of these ranks."""
        for ranks in sorted({row.ranks for row in self.rows if row.ranks > 1}):
            work = np.concatenate([np.array(row.found["work"]) for row in self.rows if row.ranks == ranks])
            ratios = np.median(work / work.mean(axis=1, keepdims=True), axis=0)
            for rank, (host, ratio) in enumerate(zip(self.made["ranks"][str(ranks)]["hosts"], ratios, strict=True)):
                yield ranks, host, rank, float(ratio)

    @property
    def error(self) -> float | None:
        """The median size of its error on what was held out."""
        points = [self.measured[place] for place in self.held_out]
        return float(np.median(np.abs(errors(self.model, points)))) if points else None


def interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean, by the bootstrap's percentiles."""
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(draws.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
