"""The result of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trace:
    """One algorithm on N ranks, over K seeds; `values` and `gradient_norms` (K, T) are of the averaged x at `steps`.

    `clip_fraction` is the mean over all steps, `drift` the largest over the rounds of ||x_i - mean x||, averaged over
    ranks and seeds, `bytes` what a rank sent in collectives; `bound` is 2 gamma I, which the drift of clipped steps
    cannot exceed.
    """

    ranks: int
    interval: int | None
    steps: np.ndarray
    rounds: np.ndarray
    values: np.ndarray
    gradient_norms: np.ndarray
    clip_fraction: float
    drift: float | None
    bound: float | None
    bytes: int

    def rms_norm(self) -> np.ndarray:
        """The gradient norm at `steps`, root mean square over the seeds."""
        return np.sqrt((self.gradient_norms**2).mean(axis=0))

    def reached(self, target: float) -> tuple[int, int] | None:
        """(steps, rounds) when the root-mean-square gradient norm first was at most `target`; None if it never was."""
        places = np.flatnonzero(self.rms_norm() <= target)
        return (int(self.steps[places[0]]), int(self.rounds[places[0]])) if len(places) else None


def slope(ranks: list[int], steps: list[int]) -> float:
    """The slope of the line through log steps over log ranks: -1 is linear speed-up."""
    return float(np.polyfit(np.log(ranks), np.log(steps), 1)[0])
