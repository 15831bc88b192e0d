"""Fragments: each average takes one of F parts of x in turn, so that a message is a part of x only.

Douillard et al.: Streaming DiLoCo. 2025 (there with an outer step and a delay).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from hvdclip.averaging.rule import Priced, Rule, Steps
from hvdclip.flat import Space, Vector
from hvdclip.messages import Message, Rider


class Fragments(Rule):
    """Round r averages part r mod F; buffers and statistics go along in every round.

    `flush` averages all of x. Drift is that of the part that was averaged. Raises ValueError for more fragments than
    tensors.
    """

    settles = False

    def __init__(self, space: Space, fragments: int, riders: Sequence[Rider], drift: bool):
        if fragments > len(space.parameters):
            raise ValueError(
                f"fragments is {fragments}; allowed: 1 to the number of tensors, which is {len(space.parameters)}"
            )
        self.x, self.riders, self.drift = space.vector(), riders, drift
        self.places = fragments_of([p.numel() for p in space.parameters], fragments)
        self.spaces = [Space(space.parameters[places]) for places in self.places]
        self.whole = space
        self.message: Message  # of the last average, or the first
        self._agree = True  # all of x was averaged last

    @property
    def messages(self) -> Sequence[Priced]:
        return [self.message]

    def end_round(self, method: Steps) -> None:
        turn = method.rounds % len(self.places)
        self._average(method, self.spaces[turn], self.x.parts[self.places[turn]])
        self._agree = len(self.places) == 1

    def flush(self, method: Steps) -> None:
        if method.steps_in_round:
            self._average(method, self.whole, self.x.parts)
        elif not self._agree:
            # no step has been taken since the last round, so there is no round to complete
            message = method.message_of(1, self.riders[:1])
            message.vectors[0].copy_(self.x)
            message.average("final")
            self.x.copy_(message.vectors[0])
        self._agree = True

    def agrees(self, method: Steps) -> bool:
        return method.steps_in_round == 0 and self._agree

    def apart_in_x(self) -> list[str]:
        return ["the fragments of x that the last average did not take"] if len(self.places) > 1 else []

    def state_dict(self) -> dict[str, Any]:
        return {"fragments_agree": self._agree}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._agree = state["fragments_agree"]

    def _average(self, method: Steps, space: Space, parts: list[Any]) -> None:
        """Complete the round with the mean of these parts of x."""
        method.statistics.fold()  # waits for a device's steps, before the average's time begins
        start, fragment = time.perf_counter(), Vector(parts)
        method.end_round()
        # made anew each time: a message for each fragment would hold as much memory as x
        self.message = message = method.message_of(1, self.riders, space=space)
        mean = message.vectors[0].copy_(fragment)
        method.close_round()
        message.average()
        if self.drift:
            method.statistics.add("drift", (fragment - mean).norm())
        fragment.copy_(mean)
        method.meet()
        method.complete_round(time.perf_counter() - start)


def fragments_of(sizes: Sequence[int], number: int) -> list[slice]:
    """So many runs of consecutive tensors of these sizes, each run at least one, all about equally large."""
    ends, bounds = list(accumulate(sizes)), [0]
    for k in range(1, number):
        wanted = ends[-1] * k / number
        possible = range(bounds[-1] + 1, len(sizes) - (number - k) + 1)
        bounds.append(min(possible, key=lambda end: abs(ends[end - 1] - wanted)))
    return [slice(start, end) for start, end in zip(bounds, [*bounds[1:], len(sizes)], strict=True)]
