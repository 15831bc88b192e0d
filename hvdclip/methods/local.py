"""Local methods: steps of each rank's own, and one average of the parameters every I steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hvdclip.averaging import Copied, Exchange, InPlace, Intervals, MeasuredIntervals, NodeAverage, compressed
from hvdclip.buffers import MovingBuffers
from hvdclip.comm import Cost
from hvdclip.flat import Gradient, Vector
from hvdclip.messages import Rider
from hvdclip.methods.apart import Apart
from hvdclip.methods.averaging_settings import PLAIN, AveragingSettings
from hvdclip.methods.outer import OuterStep

DEFAULTS = AveragingSettings(lr=1.0)


class LocalMethod(Apart):
    """A method's file defines `local_step(g)`; the average after each I-th step is done here."""

    exchange: Exchange

    def __init__(self, model_or_params: Any, settings: Any, comm: Any):
        self.averaging = settings if isinstance(settings, AveragingSettings) else DEFAULTS
        self.intervals = Intervals(settings.starts)
        if settings.interval == "auto":
            self.intervals = MeasuredIntervals(settings.starts, comm.rank, comm.size, settings.drift_budget)
        super().__init__(model_or_params, settings, comm)
        self.seed = torch.initial_seed()  # of what a compression draws
        self._under_way = False  # an average has been started and not been taken
        self._handed_over = self._averaging = 0.0  # when that was, and the seconds that the last average took
        self.outer = None if settings.outer == "none" else OuterStep(settings, self.vectors["common"])
        if "common" in self.vectors:
            self.vectors["common"].copy_(self.x)
        if self.averaging.warmup == "gradients":
            if self.needs_closure:
                raise ValueError(f"warmup is 'gradients', but {self.name} needs a second gradient; allowed: average")
            self.messages.append(self.mean_gradient)
        self.node = None
        if self.averaging.node_interval is not None:
            self.node = NodeAverage(comm, self.averaging.node_interval, settings.weight)
            self.messages.append(self.node)

    def local_step(self, g: Gradient) -> None:
        """Move this rank's x by its own gradient g."""
        raise NotImplementedError

    def end_round(self) -> None:
        """After the last step of a round, before x and what travels with it are averaged."""

    def settle(self) -> None:
        """Right after the message: make x the common x, where the message has not done that."""

    def after_average(self) -> None:
        """When x and what travels with it are means over the ranks."""

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        beyond_plain = isinstance(settings, AveragingSettings) and settings.beyond_plain
        return not beyond_plain and settings.interval != "auto" and super().vectorises(settings)

    @property
    def interval(self) -> int:
        """I of the present round."""
        return self.intervals.at(self.steps - self.steps_in_round)

    @property
    def delay(self) -> int:
        """Steps of the present round after which the average of the last one is taken."""
        if self.averaging.overlap == "none":
            return 0
        return self.interval - 1 if self.averaging.delay is None else min(self.averaging.delay, self.interval - 1)

    @property
    def ranks_agree(self) -> bool:
        return self.steps_in_round == 0 and not self._under_way

    @property
    def last_round(self) -> dict[str, Any]:
        metrics = super().last_round
        if metrics and not self._drift_known:
            metrics["drift"] = None
        return metrics

    def synchronize(self) -> None:
        """Take the average that is under way, if there is one, and average the incomplete last round."""
        if torch.is_grad_enabled():
            # only then: a round on small tensors would feel what it costs to enter what `step` has entered already
            with torch.no_grad():
                return self.synchronize()
        if self._under_way:
            self._receive()
        if self.steps_in_round:
            self._send()
            self._receive()

    def state_dict(self) -> dict[str, Any]:
        """As elsewhere; where a delayed average is under way all ranks must call it, and wait for that."""
        if self._under_way:
            self._await()  # first, since it may change the vectors
        state = super().state_dict()
        state["hvdclip"]["seed"] = self.seed
        if isinstance(self.intervals, MeasuredIntervals):
            state["hvdclip"]["intervals"] = self.intervals.state_dict()
        if self.outer is not None:
            state["outer"] = self.outer.state_dict()
        if self._under_way:
            assert self._before is not None
            state["hvdclip"]["under_way"] = {
                "received": [tensor.clone() for tensor in self.exchange.message.received or ()],
                "statistics": self.statistics.size,
                "snapshot": [flat.clone() for flat in self._before.flats],
                "buffers": [tensor.clone() for tensor in self._moving.then],
                "closed": dict(self._closed),
                "costs": [tuple(message.cost) for message in self.messages],
            }
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._under_way:
            self._await()  # else it would still write where the state goes
        super().load_state_dict(state_dict)
        own = state_dict["hvdclip"]
        self.seed = own["seed"]
        if isinstance(self.intervals, MeasuredIntervals) and "intervals" in own:
            self.intervals.load_state_dict(own["intervals"])
        if self.outer is not None:
            self.outer.load_state_dict(state_dict["outer"])
        self._under_way = self._arrived = self.statistics.answered = "under_way" in own
        if self._under_way:
            assert self._before is not None
            if own["under_way"].get("statistics") != self.statistics.size:
                raise ValueError("the average that was under way is laid out in another way: an older hvdclip saved it")
            self.exchange.message.restore(own["under_way"]["received"])
            torch._foreach_copy_(self._before.flats, own["under_way"]["snapshot"])
            self._moving.then = [tensor.to(self.space.device) for tensor in own["under_way"]["buffers"]]
            self._closed = dict(own["under_way"]["closed"])
            for message, cost in zip(self.messages, own["under_way"]["costs"], strict=True):
                message.cost = Cost(*cost)

    def kept_apart(self) -> list[str]:
        apart = super().kept_apart()
        if self.averaging.compression != "none":
            apart.append(f"the error of its compression ({self.averaging.compression})")
        if isinstance(self.intervals, MeasuredIntervals):
            apart.append("times by which interval auto chooses")
        if getattr(self, "inner", None) is not None:
            apart.append("the state of its inner optimizer")
        return apart

    def apart_in_x(self) -> list[str]:
        delayed = self.averaging.overlap == "delayed"
        return [*super().apart_in_x(), *(["steps that a delayed average has not met yet"] if delayed else [])]

    def load_common_state(self, state_dict: dict[str, Any], reset: bool = False) -> None:
        super().load_common_state(state_dict, reset)
        self.numbers["first_round"] = self.rounds

    def _begun_anew(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        state = super()._begun_anew(state_dict)
        own = {key: value for key, value in state["hvdclip"].items() if key != "intervals"}
        if "error" in self.vectors:
            own["vectors"]["error"] = [torch.zeros_like(flat) for flat in self.vectors["error"].flats]
        return state | {"hvdclip": own}

    def _shape(self) -> str:
        return f"{super()._shape()}, overlap: {self.averaging.overlap}, compression: {self.averaging.compression}"

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._under_way:
            # two averages that meet by chance in one cycle of Horovod's would be summed in another order
            self._await()
        with super().averaged():
            yield

    def _state_vectors(self) -> tuple[str, ...]:
        names = super()._state_vectors()
        if self.settings.outer != "none" or self.averaging.compression != "none":
            names += ("common",)
        return names if self.averaging.compression == "none" else (*names, "error")

    def _lay_out(self) -> tuple[Any, Vector]:
        for name in self.averaging.beyond_plain if self.travels() else ():
            allowed = PLAIN[name] or "none"
            raise ValueError(
                f"{name} is {getattr(self.averaging, name)!r}; allowed with {self.name}: {allowed}, since it sends "
                "more than x"
            )
        delayed = self.averaging.overlap == "delayed"
        self._moving = MovingBuffers(self.buffers)
        riders = self._riders()
        self._before = self.space.vector() if self.settings.drift or delayed else None
        if self.averaging.warmup == "gradients":
            self.mean_gradient = self.message_of(1, riders, name="warmup")
        if self.averaging.compression != "none":
            self.exchange = compressed(
                self.averaging.compression,
                self.averaging.top_share,
                riders,
                self.space,
                self.comm,
                self.weight,
                self.label,
                common=self.vectors["common"],
                error=self.vectors["error"],
                # an outer step begins from the common x of before
                mean=self.vectors["common"] if self.settings.outer == "none" else self.space.vector(),
            )
        else:
            message = self.message_of(1 + len(self.travels()), riders)
            self.vectors |= dict(zip(self.travels(), message.vectors[1:], strict=True))
            self.exchange = Copied(message, self.space.vector()) if delayed else InPlace(message, message.vectors[0])
        return self.exchange.message, self.exchange.x

    def _riders(self) -> list[Rider]:
        """What travels in the tail of a round's message."""
        riders: list[Rider] = [self._moving if self.averaging.overlap == "delayed" else self.buffers, self.statistics]
        return [*riders, self.intervals] if isinstance(self.intervals, MeasuredIntervals) else riders

    def _begin_round(self) -> None:
        if "common" in self.vectors and not self._under_way:
            self.vectors["common"].copy_(self.x)
        super()._begin_round()

    def _advance(self, g: Gradient | None) -> None:
        if self.averaging.warmup == "gradients" and self.steps <= self.settings.warmup_steps:
            self._step_together(g)
            return
        observed = self._skip
        if g is not None and not (self.host_skips and observed.any()):
            self.local_step(g)
            if self._skip is not observed:  # a second gradient is not finite
                self.statistics.add("skipped", self._skip - observed)
        ends = self.steps_in_round >= self.interval
        if self._under_way and self.steps_in_round >= self.delay:
            self._receive()
        if self.node is not None and self.steps_in_round % self.node.interval == 0:
            self._average_in_node(self.node, ends)
        if ends:
            self._send()
            if self.delay == 0:
                self._receive()

    def _average_in_node(self, node: NodeAverage, ends: bool) -> None:
        # an average over all ranks that comes at once does this one's work
        if not ends or self.averaging.overlap == "delayed":
            node.average(self.x)

    def _step_together(self, g: Gradient | None) -> None:
        """A step of all ranks from their mean gradient, so that their x stay the same."""
        assert g is not None
        start = time.perf_counter()
        mean = self.mean_gradient.vectors[0].copy_(g)
        self.mean_gradient.average()
        self._averaging = time.perf_counter() - start
        if not (self.statistics.failed or self.statistics.overflowed):
            self._skip = torch.zeros_like(self._skip)
            together = Gradient(mean.parts, mean.norm())
            together.common = True
            self.local_step(together)
        self._finish_round()

    def _send(self) -> None:
        """End the round's local steps and hand x over."""
        self._handed_over = time.perf_counter()
        self.end_round()
        if self._before is not None:
            self._before.copy_(self.x)
        if not self.takes_part:
            self.x.zero_()
        self.exchange.start((self.seed, self.rounds))
        self._close_round()
        self._under_way, self._arrived = True, False

    def _await(self) -> None:
        if not self._arrived:
            self.exchange.wait()
            self._arrived = True

    def _receive(self) -> None:
        """Take the mean of what was handed over; x keeps the steps that it has done since."""
        self._await()
        mean = self.exchange.finish()
        if self.drawn < 1:
            mean.mul_(torch.tensor(1 / self.drawn, dtype=torch.float64))
        self.settle()
        delayed = self.averaging.overlap == "delayed"
        if delayed:
            assert self._before is not None
            self.x.sub_(self._before)
        if self._before is not None and self.settings.drift and self.takes_part:
            # ||x_i - mean x||: known only now, so it travels in the next message
            self.statistics.add("drift", self._before.sub_(mean).norm() / self.drawn)
        if self.outer is not None:
            self.outer.step(mean)
        if delayed:
            self.x.add_(mean)
        elif mean is not self.x:
            self.x.copy_(mean)
        self._under_way = False
        self.after_average()
        self._averaging = time.perf_counter() - self._handed_over
        self._complete_round()

    def _close_round(self) -> None:
        interval = self.interval
        super()._close_round()
        self._closed["interval"] = interval

    def _complete_round(self) -> None:
        # the drift of the average before this one, of the same ranks
        self._drift_known = self.settings.drift and self.rounds > self.numbers.get("first_round", 0)
        super()._complete_round()

    def _round_is_known(self) -> None:
        if isinstance(self.intervals, MeasuredIntervals):
            metrics, steps = self.last_round, self._closed["step"] - self._closed["first"]
            stepping = metrics["round_s"] - self._averaging
            reason = self.intervals.after_round(self.steps, steps, stepping, self._averaging, metrics["drift"])
            self._round["interval_reason"] = reason or None
