"""Intervals: how many local steps a round takes, given in advance or chosen from what steps and averages cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from torch import Tensor

# The gain over I = 1 is at most 1 + T_comm/T_step; I = 19 T_comm/T_step gets 95 % of that.
OF_BOUND = 19
# Rounds from whose medians one choice is made.
WINDOW = 8


def in_words(starts: Mapping[int, int]) -> str:
    """Say "4", or "1, from step 100 on 4"."""
    first, *later = sorted(starts.items())
    return ", ".join([str(first[1]), *(f"from step {start} on {interval}" for start, interval in later)])


class Intervals:
    """I of each round, by the step at which it starts: that of the last of `starts` up to there."""

    def __init__(self, starts: Mapping[int, int]):
        self.starts = dict(sorted(starts.items()))

    def at(self, step: int) -> int:
        # from the end, where the present round is however long the log has become
        return next(self.starts[start] for start in reversed(self.starts) if start <= step)


class MeasuredIntervals(Intervals):
    """I from measured times, within a budget of drift; a rider of each round's message.

    In it travel the seconds of a step and of an average that each rank has measured in the round before, and rank 0's
    choice, which all ranks take at the start of the next round; so they agree whatever their clocks say. `starts` is
    the log of the choices: where it goes on after the present step, as on a resume, it is followed.
    """

    def __init__(self, starts: Mapping[int, int], rank: int, ranks: int, drift_budget: float | None):
        super().__init__(starts)
        self.rank, self.ranks, self.budget = rank, ranks, drift_budget
        self.size = 1 + 2 * ranks
        self.reason = ""  # of the last choice, on rank 0
        self._choice = self._told = 0  # of rank 0, and what all have been told; 0 for no change
        self._own = (0.0, 0.0)  # seconds of a step and of the average in the last round
        self._agreed = (0.0, 0.0)  # the same over all ranks, of the round before
        self._steps = 0
        self._rounds: list[tuple[float, float, float]] = []  # T_step, T_comm, drift for each local step

    def pack(self, tail: Tensor) -> None:
        tail.zero_()
        tail[1 + 2 * self.rank], tail[2 + 2 * self.rank] = self._own
        if self.rank == 0:
            tail[0] = self._choice

    def unpack(self, tail: Tensor) -> None:
        told, *times = (tail * self.ranks).tolist()
        self._told = round(told)
        # who comes last to an average waits for the others least: its time is that of the average itself
        self._agreed = (sum(times[::2]) / self.ranks, min(times[1::2]))

    def after_round(self, step: int, steps: int, seconds: float, waited: float, drift: float | None) -> None:
        """Take this rank's times of a round of `steps` local steps that ended at `step`, and the drift before it."""
        if self._told and step > max(self.starts):
            self.starts[step] = self._told
        self._choice = 0
        if self._steps:
            self._rounds.append((*self._agreed, (drift or 0.0) / self._steps))
        self._own, self._steps = ((seconds - waited) / steps, waited), steps
        if len(self._rounds) == WINDOW:
            self._choose(self.at(step))
            self._rounds.clear()

    def _choose(self, present: int) -> None:
        t_step, t_comm, drift = map(median, zip(*self._rounds, strict=True))
        wanted = OF_BOUND * t_comm / max(t_step, 1e-9)
        chosen = max(1, math.ceil(wanted))
        reason = f"19 T_comm/T_step = 19 * {t_comm:.3g} s / {t_step:.3g} s = {wanted:.3g}"
        if self.budget is not None and drift * chosen > self.budget:
            chosen = max(1, int(self.budget / drift))
            reason += f", cut by drift_budget {self.budget:g} at a drift of {drift:.3g} a step"
        self._choice = chosen if chosen != present else 0
        self.reason = f"I = {chosen} from here on: {reason}"
