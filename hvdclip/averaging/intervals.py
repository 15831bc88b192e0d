"""Intervals: how many local steps a round takes, given in advance or chosen from what steps and averages cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

# The gain over I = 1 is at most 1 + T_comm/T_step; I = 19 T_comm/T_step gets 95 % of that.
OF_BOUND = 19
# Rounds from whose medians one choice is made.
WINDOW = 8
# A choice that is as near as this to the present I, as a share of that, is not worth a change: times are noisy.
NEAR = 0.25


def starts_in_words(starts: Mapping[int, int]) -> str:
    """Say "4", or "1, from step 100 on 4"."""
    first, *later = sorted(starts.items())
    return ", ".join([str(first[1]), *(f"from step {start} on {interval}" for start, interval in later)])


class Intervals:
    """I of each round, by the step at which it starts: that of the last of `starts` up to there."""

    def __init__(self, starts: Mapping[int, int]):
        self.starts = dict(sorted(starts.items()))

    def at(self, step: int) -> int:
        # from the end, where the present round is however long the log has become
        for start in reversed(self.starts):
            if start <= step:
                return self.starts[start]
        raise ValueError(f"no interval is given for step {step}")


@dataclass
class Window:
    """What has been measured since the last choice, and what is on its way."""

    rounds: list[tuple[float, float, float]] = field(default_factory=list)  # T_step, T_comm, drift for each local step
    own: tuple[float, float] = (0.0, 0.0)  # this rank's seconds of a step and of the average in the last round
    agreed: tuple[float, float] = (0.0, 0.0)  # the same over all ranks, of the round before
    steps: int = 0  # of the last round
    choice: int = 0  # of rank 0, on its way to all; 0 for no change
    told: int = 0  # what all have been told
    reason: str = ""  # of the last choice, on rank 0


class MeasuredIntervals(Intervals):
    """I from measured times, within a budget of drift; a rider of each round's message.

    In it travel the seconds of a step and of an average that each rank has measured in the round before, and rank 0's
    choice, which all ranks take at the start of the next round; so they agree whatever their clocks say. `starts` is
    the log of the choices.
    """

    on_host = True

    def __init__(self, starts: Mapping[int, int], rank: int, ranks: int, drift_budget: float | None):
        super().__init__(starts)
        self.rank, self.ranks, self.budget = rank, ranks, drift_budget
        self.size = 1 + 2 * ranks
        self.window = Window()

    def pack(self, tail: Tensor) -> None:
        tail.zero_()
        tail[1 + 2 * self.rank], tail[2 + 2 * self.rank] = self.window.own
        if self.rank == 0:
            tail[0] = self.window.choice

    def unpack(self, tail: Tensor) -> None:
        told, *times = (tail * self.ranks).tolist()
        self.window.told = round(told)
        # who comes last to an average waits for the others least: its time is that of the average itself
        self.window.agreed = (sum(times[::2]) / self.ranks, min(times[1::2]))

    def after_round(self, step: int, steps: int, stepping: float, averaging: float, drift: float | None) -> str:
        """Take this rank's seconds of a round of `steps` local steps that ended at `step`, and the drift before it.

        Returns why I changes here, on rank 0; "" where it does not.
        """
        present, reason = self.at(step - steps), "as in the log"
        if self.window.told and step > max(self.starts):
            self.starts[step], reason = self.window.told, self.window.reason
        self.window.choice = 0
        if self.window.steps:
            self.window.rounds.append((*self.window.agreed, (drift or 0.0) / self.window.steps))
        self.window.own, self.window.steps = (stepping / steps, averaging), steps
        if len(self.window.rounds) == WINDOW:
            self._choose(self.at(step))
            self.window.rounds.clear()
        return "" if self.at(step) == present else f"I = {self.at(step)} from here on: {reason}"

    def _choose(self, present: int) -> None:
        t_step, t_comm, drift = map(median, zip(*self.window.rounds, strict=True))
        wanted = OF_BOUND * t_comm / max(t_step, 1e-9)
        chosen = max(1, math.ceil(wanted))
        reason = f"19 T_comm/T_step = 19 * {t_comm:.3g} s / {t_step:.3g} s = {wanted:.3g}"
        if self.budget is not None and drift * chosen > self.budget:
            chosen = max(1, int(self.budget / drift))
            reason += f", cut by drift_budget {self.budget:g} at a drift of {drift:.3g} a step"
        if abs(chosen - present) > NEAR * present:
            self.window.choice, self.window.reason = chosen, reason

    def follow(self, log: Mapping[int, int]) -> None:
        """Repeat the choices of a log where it goes on after this one's, and choose again after its end."""
        self.starts |= {start: interval for start, interval in sorted(log.items()) if start > max(self.starts)}

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; numbers and words only."""
        return {"starts": dict(self.starts), "window": asdict(self.window)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.starts, self.window = dict(state["starts"]), Window(**copy.deepcopy(state["window"]))
