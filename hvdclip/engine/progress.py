"""How far a method has come, and the metrics of its last round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hvdclip.averaging.rule import Priced
from hvdclip.comm import Cost


class Progress:
    """Counters of steps and rounds, and the metrics of a round besides its statistics."""

    def __init__(self) -> None:
        self.steps = self.rounds = self.steps_in_round = 0
        self.on_round: Callable[[], None] | None = None  # called when a round is complete
        self.closed: dict[str, Any] = {}  # metrics of the round whose steps are done
        self.first = 0  # steps before it
        self.metrics: dict[str, Any] = {}  # metrics of the last complete round
        self.unknown: tuple[str, ...] = ()  # statistics that this round does not have
        self._start = time.perf_counter()

    def close(self, **metrics: Any) -> None:
        """The round's steps are done; its message may still be under way."""
        self.closed = {"first": self.steps - self.steps_in_round, "step": self.steps, **metrics}
        self.steps_in_round = 0

    def complete(self, messages: Sequence[Priced], ranks: int) -> None:
        """The round's messages have been taken."""
        self.rounds += 1
        closed = dict(self.closed)
        self.first = closed.pop("first")
        cost = Cost()
        for message in messages:
            cost, message.cost = cost.plus(message.cost), Cost()
        now = time.perf_counter()
        self.metrics = closed | {
            "round": self.rounds,
            "bytes": cost.bytes,
            "comm_s": cost.seconds,
            "round_s": now - self._start,
            "ranks": ranks,
        }
        self._start = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count as the round's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps, "rounds": self.rounds, "steps_in_round": self.steps_in_round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.rounds, self.steps_in_round = state["steps"], state["rounds"], state["steps_in_round"]
