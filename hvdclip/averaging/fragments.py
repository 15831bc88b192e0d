"""Fragments: each average takes one of F parts of x in turn, so that a message contains only a part of x.

Douillard et al.: Streaming DiLoCo. 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from hvdclip.averaging.plain import Plain
from hvdclip.averaging.rule import Priced, Rule, Steps
from hvdclip.flat import Vector


class Fragments(Rule):
    """Round r delegates to the rule of part r mod F; buffers and statistics travel in every round.

    `rules` makes each part's rule with its message when it is that part's turn: all messages together would need as
    much memory as x. What lasts from turn to turn (x_round, errors, the outer step) is kept outside of them.
    """

    settles = False

    def __init__(self, x: Vector, rules: Sequence[Callable[[], Plain]]):
        self.x, self.rules = x, rules
        self.turn, self.now = 0, rules[0]()

    @property
    def under_way(self) -> bool:  # type: ignore[override]
        return self.now.under_way

    @property
    def messages(self) -> Sequence[Priced]:
        return self.now.messages

    def after_step(self, method: Steps, ends: bool) -> None:
        self.now.after_step(method, ends)

    def end_round(self, method: Steps) -> None:
        self._turn_to(method.rounds % len(self.rules))
        self.agree = False  # already now, for readers while the round is completed, and if that raises
        self.now.end_round(method)
        self.agree = len(self.rules) == 1 and self.now.agree

    def take(self, method: Steps) -> None:
        self.now.take(method)

    def wait(self) -> None:
        self.now.wait()

    def apart(self) -> list[str]:
        return self.now.apart()

    def apart_in_x(self) -> list[str]:
        others = ["the fragments of x that the last average did not take"] if len(self.rules) > 1 else []
        return [*others, *self.now.apart_in_x()]

    def state_dict(self) -> dict[str, Any]:
        return {"fragment": self.turn} | self.now.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._turn_to(state["fragment"])
        self.now.load_state_dict(state)

    def _turn_to(self, turn: int) -> None:
        if turn != self.turn:
            del self.now  # before the next one is made, so that there is one message at a time
            self.turn, self.now = turn, self.rules[turn]()


def fragments_of(sizes: Sequence[int], number: int) -> list[slice]:
    """Cut tensors of these sizes into `number` consecutive runs: none is empty, all are about equally large."""
    ends, bounds = list(accumulate(sizes)), [0]
    for k in range(1, number):
        wanted = ends[-1] * k / number
        possible = range(bounds[-1] + 1, len(sizes) - (number - k) + 1)
        bounds.append(min(possible, key=lambda end: abs(ends[end - 1] - wanted)))
    return [slice(start, end) for start, end in zip(bounds, [*bounds[1:], len(sizes)], strict=True)]
