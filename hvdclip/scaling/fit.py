"""The cost model, fitted to a part of a study's measurements and compared with the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hvdclip.bench.traffic import ring_share
from hvdclip.scaling.cost import StepCost


@dataclass(frozen=True)
class Measured:
    """One point of a study: N ranks, an average every I steps of `payload` bytes; medians over blocks, in seconds.

    `seconds` is a step, `work` what the slowest rank itself works in it, on average, and `slack` what a rank waits in
    addition, because the slowest rank differs from round to round.
    """

    ranks: int
    interval: int
    seconds: float
    work: float
    slack: float
    payload: float


@dataclass(frozen=True)
class Model:
    """The costs by number of ranks, and the link that explains their averages (None with fewer than two of them).

    `link_error` is the median relative error of the seconds that this link predicts for the averages.
    """

    costs: dict[int, StepCost]
    alpha: float | None
    bandwidth: float | None
    link_error: float | None

    def at(self, ranks: int, interval: int) -> float:
        return self.costs[ranks].at(interval)


def split(points: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """(points to fit, held-out points): the smallest and largest I of each N, and those between."""
    fitted: list[Measured] = []
    held_out: list[Measured] = []
    for point in points:
        intervals = [other.interval for other in points if other.ranks == point.ranks]
        (fitted if point.interval in (min(intervals), max(intervals)) else held_out).append(point)
    return fitted, held_out


def fit(points: Sequence[Measured]) -> Model:
    """T(N, I) = T_step(N) + T_comm(N)/I + slack(N)/sqrt(I), for each N; ValueError for no points."""
    if not points:
        raise ValueError("there are no points to fit a model to")
    costs = {ranks: _cost([p for p in points if p.ranks == ranks]) for ranks in sorted({p.ranks for p in points})}
    averaging = {n: cost.average for n, cost in costs.items() if n > 1}
    # one rank alone sends nothing
    return Model(costs, *_link(averaging, max(point.payload for point in points)))


def errors(model: Model, points: Sequence[Measured]) -> list[float]:
    """Of the predicted seconds, relative to the measured ones."""
    return [model.at(point.ranks, point.interval) / point.seconds - 1 for point in points]


def _cost(points: Sequence[Measured]) -> StepCost:
    """The step and the slack as measured, the round from what is left of the time: its average, and own work for it.

    A round's own work matters least for the largest I; if noise contradicts this, the mean over all I is the step.
    """
    rarest = max(points, key=lambda point: point.interval)
    step = min(rarest.work, float(np.mean([point.work for point in points])))
    slack = _through_zero([1 / math.sqrt(point.interval) for point in points], [point.slack for point in points])
    left = [point.seconds - step - slack / math.sqrt(point.interval) for point in points]
    return StepCost(step, _through_zero([1 / point.interval for point in points], left), slack)


def _through_zero(x: ArrayLike, y: ArrayLike) -> float:
    """The least-squares slope of a line through zero; 0 if it would be negative."""
    return max(0.0, float(np.dot(x, y) / np.dot(x, x)))


def _link(averaging: dict[int, float], payload: float) -> tuple[float | None, float | None, float | None]:
    """(seconds per hop, bytes per second, median relative error) of one link for all numbers of ranks."""
    if len(averaging) < 2:
        return None, None, None
    terms = np.array([[2 * math.ceil(math.log2(n)), ring_share(n) * payload] for n in averaging])
    seconds = np.array(list(averaging.values()))
    alpha, per_byte = _not_negative(terms, seconds)
    off = np.abs(terms @ (alpha, per_byte) - seconds)
    error = float(np.median(off / seconds)) if seconds.all() else None
    return alpha, None if per_byte == 0 else 1 / per_byte, error


def _not_negative(terms: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Least squares for two coefficients; a negative one becomes zero."""
    first, second = np.linalg.lstsq(terms, values, rcond=None)[0]
    if first < 0:
        return 0.0, _through_zero(terms[:, 1], values)
    return (_through_zero(terms[:, 0], values), 0.0) if second < 0 else (float(first), float(second))
