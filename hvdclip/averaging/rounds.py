"""Rounds: I local steps each, and the rule by which x is averaged after them."""

from __future__ import annotations

from typing import Any

from hvdclip.averaging.intervals import Intervals, MeasuredIntervals
from hvdclip.averaging.outer import OuterParts, OuterStep
from hvdclip.averaging.rule import Progress, Rule, Steps
from hvdclip.comm import Cost
from hvdclip.flat import Vector


class Rounds:
    """When the ranks average, and how.

    `vectors` are those that averages need besides x. "x_round" is one of them if something needs x from the start of
    the round, or the last common x during an average.
    """

    def __init__(
        self,
        intervals: Intervals,
        rule: Rule,
        vectors: dict[str, Vector],
        outer: OuterStep | OuterParts | None,
        seed: int,
        progress: Progress,
    ):
        self.intervals, self.rule, self.vectors, self.outer = intervals, rule, vectors, outer
        self.seed, self.progress = seed, progress
        self.x_round = vectors.get("x_round")
        self.seconds = 0.0  # that the last average took

    @property
    def interval(self) -> int:
        """I of the current round."""
        return self.intervals.at(self.progress.steps - self.progress.steps_in_round)

    def begin(self, method: Steps) -> None:
        """Before the first gradient of a round."""
        if self.x_round is not None and self.rule.is_common:
            self.x_round.copy_(method.x)
            if self.outer is not None:
                self.outer.begin()

    def after_step(self, method: Steps) -> None:
        """The communication that is due after a step of this rank, or after one that it did not take."""
        ends = self.progress.steps_in_round >= self.interval
        self.rule.after_step(method, ends)
        if ends:
            self.rule.end_round(method)

    def flush(self, method: Steps) -> None:
        """Average what is not averaged yet, so that all ranks have the same x.

        The incomplete round ends as all rounds do. If ranks still differ afterwards, x becomes its mean in one more
        average, which has no outer step and no compression, and belongs to no round.
        """
        self.rule.flush(method)
        if not self.rule.agree:
            message = method.message_of(1, [method.buffers])
            message.vectors[0].copy_(method.x)
            message.average("final")
            method.x.copy_(message.vectors[0])
            self.rule.agree = True

    def choose_interval(self, metrics: dict[str, Any], steps: int, step: int) -> str | None:
        """Take the metrics of a complete round of so many steps, at a step; returns why I changes here, if it does."""
        if not isinstance(self.intervals, MeasuredIntervals):
            return None
        stepping = metrics["round_s"] - self.seconds
        return self.intervals.after_round(step, steps, stepping, self.seconds, metrics["drift"]) or None

    def apart(self) -> list[str]:
        """What each rank has besides x that others do not, in words."""
        measured = isinstance(self.intervals, MeasuredIntervals)
        return [*self.rule.apart(), *(["times by which interval auto chooses"] if measured else [])]

    def state_dict(self) -> dict[str, Any]:
        state = {"seed": self.seed, "agree": self.rule.agree} | self.rule.state_dict()
        if isinstance(self.intervals, MeasuredIntervals):
            state["intervals"] = self.intervals.state_dict()
        if self.rule.under_way:
            state["costs"] = [tuple(message.cost) for message in self.rule.messages]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]
        if isinstance(self.intervals, MeasuredIntervals) and "intervals" in state:
            self.intervals.load_state_dict(state["intervals"])
        self.rule.load_state_dict(state)
        self.rule.agree = state.get("fragments_agree", state["agree"])  # the name in older releases
        for message, cost in zip(self.rule.messages, state.get("costs", ()), strict=False):
            message.cost = Cost(*cost)
