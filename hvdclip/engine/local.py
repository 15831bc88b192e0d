"""Local methods: each rank's own steps, and one average of the parameters every I steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import torch

from hvdclip.averaging import Exchange, Intervals, starts_in_words
from hvdclip.averaging.rule import Priced
from hvdclip.comm import Communicator
from hvdclip.engine import saved
from hvdclip.engine.agreement import kind
from hvdclip.engine.averages import Assembly
from hvdclip.engine.groups import Parameters
from hvdclip.engine.joining import averages_plainly
from hvdclip.engine.method import Method
from hvdclip.engine.sgd import FusedSgd
from hvdclip.engine.sharing import COMMON, OWN, TRAVELS, Sharing
from hvdclip.engine.skip import StepLeftOut
from hvdclip.flat import Gradient, Vector
from hvdclip.settings import LocalSgdSettings

MOMENTUM = {"keep": OWN, "average": TRAVELS, "reset": COMMON}


class LocalMethod(Method):
    """A method's file defines `local_step(g)`; `averaging` does what is due after it: at each I-th step an average."""

    def __init__(self, model_or_params: Parameters, settings: Any, comm: Communicator):
        super().__init__(model_or_params, settings, comm)
        assembly = Assembly(self)
        self.averaging = assembly.rounds()
        self.further_messages: list[Priced] = []  # messages of an algorithm that averages more than x
        rule = self.averaging.rule
        self._start(rule.x, self.averaging.vectors, {"outer": self.averaging.outer} if self.averaging.outer else {})
        self.parts.append(self.averaging)
        if assembly.states is not None:
            assembly.states.find_in(cast(Any, self.optimizers["inner"]), kind(self.settings.inner))

    # What an algorithm's file defines

    def local_step(self, g: Gradient) -> None:
        """Move this rank's x by its own gradient g."""
        raise NotImplementedError

    def end_round(self) -> None:
        """After the last step of a round, before x and what travels with it are averaged."""

    def after_average(self) -> None:
        """Called when x and what travels with it are means over the ranks."""

    def make_exchange(self, assembly: Assembly) -> Exchange:
        """The exchange that makes the next common x from the ranks' x."""
        return assembly.exchange()

    # What the algorithm's file and its averaging use

    @property
    def interval(self) -> int:
        """I of the current round."""
        return self.averaging.interval

    @property
    def messages(self) -> Sequence[Priced]:
        return [*self.averaging.rule.messages, *self.further_messages]

    @property
    def intervals(self) -> Intervals:
        """I by the first step at which it applies."""
        return self.averaging.intervals

    @property
    def x_round(self) -> Vector:
        """The common x at the start of the round; for methods whose settings say that they need it."""
        assert self.averaging.x_round is not None
        return self.averaging.x_round

    @property
    def seed(self) -> int:
        """The seed from which averages draw."""
        return self.averaging.seed

    def take(self, g: Gradient) -> None:
        self.averaging.rule.step(self, g)

    def take_step(self, g: Gradient) -> None:
        """Move this rank's x by its own gradient, unless the step is left out."""
        changes, self.gradients.common = self.changes, False
        with suppress(StepLeftOut):
            if changes == ():
                self.local_step(g)
            elif changes is None or self.skip.on_host:
                self.skip.check()
                self.local_step(g)
            else:
                with self.skip.put_back([[flat] for name in changes for flat in self.vectors[name].flats]):
                    self.local_step(g)

    def take_common_step(self, g: Gradient) -> None:
        """Move the ranks' common x by their mean gradient, unless some rank's gradient is not finite."""
        if not (self.statistics.failed or self.statistics.overflowed):
            self.skip.clear()
            self.gradients.common = True
            with suppress(StepLeftOut):
                self.local_step(g)
        else:
            self.kept.put_back()

    def after_step(self) -> None:
        self.averaging.after_step(self)

    def joinable(self) -> bool:
        return averages_plainly(self)

    def close_round(self) -> None:
        """Record the metrics of the round's steps."""
        self._close_round(self.interval)

    def meet(self) -> None:
        """Called when x and what travels with it are means over the ranks."""
        if isinstance(self.settings, LocalSgdSettings) and self.settings.momentum_policy == "reset":
            assert isinstance(self.sgd, FusedSgd)
            self.sgd.reset()
        self.after_average()

    def complete_round(self, seconds: float) -> None:
        """Called after the average that ends a round; it took so many seconds of this rank."""
        self.averaging.seconds = seconds
        # the drift at the previous average, of the same ranks
        known = self.settings.drift and self.progress.rounds > self.numbers.get("first_round", 0)
        self.progress.unknown = () if known else ("drift",)
        self._complete_round()

    def synchronize(self) -> None:
        """Take the average that is under way, if there is one, and average the incomplete last round."""
        if self.participation.joined:
            raise RuntimeError(
                "synchronize() inside join(): ranks that have finished would not take part; call it afterwards"
            )
        if torch.is_grad_enabled():
            # only then: on small tensors a round would feel the cost of entering what `step` has entered already
            with torch.no_grad():
                return self.synchronize()
        self.averaging.flush(self)
        self.kept.keep()

    def agrees(self) -> bool:
        return self.averaging.rule.agrees(self)

    def wait(self) -> None:
        self.averaging.rule.wait()

    def communication(self) -> str:
        if self.settings.interval == "auto":
            return "average every I steps, I chosen from measured times"
        return f"average every {starts_in_words(self.intervals.starts)} steps"

    def kept_apart(self) -> list[str]:
        inner = ["the state of its inner optimizer"] if "inner" in self.optimizers else []
        return [*super().kept_apart(), *self.averaging.apart(), *inner]

    def apart_in_x(self) -> list[str]:
        return self.averaging.rule.apart_in_x()

    def load_common_state(self, state_dict: saved.State, reset: bool = False) -> None:
        super().load_common_state(state_dict, reset)
        self.numbers["first_round"] = self.rounds

    def _begin_round(self) -> None:
        self.averaging.begin(self)
        super()._begin_round()

    def _momentum_sharing(self) -> Sharing:
        return MOMENTUM[self.settings.momentum_policy]

    def _same_lr(self) -> bool:
        return self.settings.lr_policy == "same"

    def _groups_are_alike(self) -> bool:
        return not self.participation.joined  # nothing steps the scheduler of a rank that has left

    def _round_is_known(self) -> None:
        metrics, first = self.progress.metrics, self.progress.first
        if self.settings.interval == "auto":
            reason = self.averaging.choose_interval(self.last_round, metrics["step"] - first, self.steps)
            metrics["interval_reason"] = reason
