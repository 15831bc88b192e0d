"""What every averaging rule offers: one class for each way in which ranks average their local steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hvdclip.averaging.participation import Participation
from hvdclip.comm import Cost
from hvdclip.flat import Gradient, Space, Vector
from hvdclip.messages import Message, Rider, Statistics


class Priced(Protocol):
    """What has a cost, as a message has: the cost of its last average."""

    cost: Cost


class Progress(Protocol):
    """How far a method has come."""

    steps: int
    steps_in_round: int
    closed: dict[str, Any]  # metrics of the round whose steps are done


class Steps(Protocol):
    """What a rule needs from the local method whose x it averages."""

    x: Vector
    statistics: Statistics
    participation: Participation

    @property
    def buffers(self) -> Rider:
        """The module's buffers."""

    @property
    def steps(self) -> int:
        """Local steps of this rank so far."""

    @property
    def steps_in_round(self) -> int:
        """Local steps of the current round."""

    @property
    def rounds(self) -> int:
        """Complete rounds."""

    @property
    def interval(self) -> int:
        """I of the current round."""

    @property
    def seed(self) -> int:
        """Random numbers of an average are drawn from this and the round's number."""

    @property
    def counts(self) -> bool:
        """Whether this rank's x counts in the average that ends the current round."""

    def message_of(
        self, content: int, riders: Sequence[Rider] = (), *, space: Space | None = None, name: str = "main"
    ) -> Message:
        """A message of so many vectors."""

    def take_step(self, g: Gradient) -> None:
        """Move this rank's x by g, unless its step is left out."""

    def take_common_step(self, g: Gradient) -> None:
        """Move the ranks' common x by the mean gradient g, unless some rank's gradient is not finite."""

    def end_round(self) -> None:
        """The algorithm's own end of a round, before x is averaged."""

    def close_round(self) -> None:
        """Record the metrics of the round's steps; the next round begins."""

    def complete_round(self, seconds: float) -> None:
        """Called after the round's average, which took so many seconds of this rank."""

    def meet(self) -> None:
        """Called when x and what travels with it are means over the ranks."""


class Rule:
    """A way to average x over the ranks every I local steps. It does not store the method: each call gets it.

    The calls of a round: for each local step `step` and `after_step`, then `end_round`.
    """

    x: Vector
    under_way = False  # an average has been started and its mean not yet taken
    settles = True  # after `end_round` all ranks have the same x
    agree = True  # after the last average all ranks had the same x

    @property
    def is_common(self) -> bool:
        """Whether all ranks have the same x, apart from their steps of the current round."""
        return self.agree and not self.under_way

    @property
    def messages(self) -> Sequence[Priced]:
        """The messages whose costs count as the round's."""
        raise NotImplementedError

    def step(self, method: Steps, g: Gradient) -> None:
        """One step from the gradient g."""
        method.take_step(g)

    def after_step(self, method: Steps, ends: bool) -> None:
        """What is due between two steps; `ends` says that the round ends here."""

    def end_round(self, method: Steps) -> None:
        """Average after the round's last step, or start to."""
        raise NotImplementedError

    def take(self, method: Steps) -> None:
        """Take the mean of the average that is under way, if there is one."""

    def flush(self, method: Steps) -> None:
        """Take what is under way, and end a round that has begun; `agree` says whether all ranks then have one x."""
        self.take(method)
        if method.steps_in_round:
            self.end_round(method)
            self.take(method)

    def agrees(self, method: Steps) -> bool:
        """Whether all ranks have the same x now."""
        return method.steps_in_round == 0 and self.is_common

    def wait(self) -> None:
        """Wait for what is under way; x does not change."""

    def apart(self) -> list[str]:
        """What each rank has besides x that others do not, in words."""
        return []

    def apart_in_x(self) -> list[str]:
        """Why x itself differs between ranks at the end of a round, in words."""
        return []

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; ValueError if that is impossible."""


class Wrapper(Rule):
    """A rule around another one, which does everything that this one does not."""

    def __init__(self, rule: Rule):
        self.rule, self.x, self.settles = rule, rule.x, rule.settles

    @property
    def under_way(self) -> bool:  # type: ignore[override]
        return self.rule.under_way

    @property
    def agree(self) -> bool:  # type: ignore[override]
        return self.rule.agree

    @agree.setter
    def agree(self, agree: bool) -> None:
        self.rule.agree = agree

    @property
    def messages(self) -> Sequence[Priced]:
        return self.rule.messages

    def step(self, method: Steps, g: Gradient) -> None:
        self.rule.step(method, g)

    def after_step(self, method: Steps, ends: bool) -> None:
        self.rule.after_step(method, ends)

    def end_round(self, method: Steps) -> None:
        self.rule.end_round(method)

    def take(self, method: Steps) -> None:
        self.rule.take(method)

    def flush(self, method: Steps) -> None:
        self.rule.flush(method)

    def wait(self) -> None:
        self.rule.wait()

    def apart(self) -> list[str]:
        return self.rule.apart()

    def apart_in_x(self) -> list[str]:
        return self.rule.apart_in_x()

    def state_dict(self) -> dict[str, Any]:
        return self.rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rule.load_state_dict(state)
