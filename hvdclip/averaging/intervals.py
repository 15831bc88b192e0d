"""Intervals: how many local steps a round takes, given in advance or chosen from the cost of steps and averages."""

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
# One choice is made from the medians of this many rounds.
WINDOW = 8
# A choice that differs from the current I by less than this share does not change it: times are noisy.
NEAR = 0.25


def starts_in_words(starts: Mapping[int, int]) -> str:
    """Say "4", or "1, from step 100 on 4"."""
    first, *later = sorted(starts.items())
    return ", ".join([str(first[1]), *(f"from step {start} on {interval}" for start, interval in later)])


class Intervals:
    """I of each round, by the step at which the round starts: the I of the last of `starts` up to that step."""

    def __init__(self, starts: Mapping[int, int]):
        self.starts = dict(sorted(starts.items()))

    def at(self, step: int) -> int:
        # from the end, where the current round is, however long the log has become
        for start in reversed(self.starts):
            if start <= step:
                return self.starts[start]
        raise ValueError(f"no interval is given for step {step}")


@dataclass
class Window:
    """What has been measured since the last choice, and what the ranks are exchanging."""

    rounds: list[tuple[float, float, float]] = field(default_factory=list)  # T_step, T_comm, drift per local step
    own: tuple[float, float] = (0.0, 0.0)  # this rank's seconds for a step and for the average in the last round
    agreed: tuple[float, float] = (0.0, 0.0)  # the same over all ranks, for the round before
    steps: int = 0  # in the last round
    choice: int = 0  # by rank 0, on its way to all; 0: no change
    told: int = 0  # the choice that has arrived at all ranks
    reason: str = ""  # of the last choice, on rank 0


class MeasuredIntervals(Intervals):
    """Chooses I from measured times, within a budget of drift; a rider of each round's message.

    It sends the seconds that each rank has measured for a step and an average of the previous round, and rank 0's
    choice. All ranks use this choice from the start of the next round, so they agree whatever their clocks say.
    `starts` is the log of the choices.
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
        # the rank that comes last to an average hardly waits for others: its time is that of the average itself
        self.window.agreed = (sum(times[::2]) / self.ranks, min(times[1::2]))

    def after_round(self, step: int, steps: int, stepping: float, averaging: float, drift: float | None) -> str:
        """Take this rank's seconds for a round of `steps` local steps that ended at `step`, and the drift before it.

        Returns why I changes here, on rank 0; "" if it does not change.
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
            reason += f", cut by drift_budget {self.budget:g} at a drift of {drift:.3g} per step"
        if abs(chosen - present) > NEAR * present:
            self.window.choice, self.window.reason = chosen, reason

    def follow(self, log: Mapping[int, int]) -> None:
        """Repeat the choices of a log that continues after this one's end, and choose again after the log's end."""
        self.starts |= {start: interval for start, interval in sorted(log.items()) if start > max(self.starts)}

    def state_dict(self) -> dict[str, Any]:
        """This rank's state: numbers and words only."""
        return {"starts": dict(self.starts), "window": asdict(self.window)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.starts, self.window = dict(state["starts"]), Window(**copy.deepcopy(state["window"]))
