"""How a local method averages, put together from its settings: one rule, maybe in others that wrap it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from hvdclip.averaging import (
    Copied,
    Delayed,
    Exchange,
    Fragments,
    GradientWarmup,
    InPlace,
    Intervals,
    MeasuredIntervals,
    NodeFirst,
    OuterStep,
    Plain,
    Rounds,
    Rule,
    compressed,
)
from hvdclip.engine.sharing import Sharing
from hvdclip.flat import Vector
from hvdclip.messages import MovingBuffers, Rider
from hvdclip.settings import AveragingSettings
from hvdclip.settings.averaging import PLAIN

if TYPE_CHECKING:
    from hvdclip.engine.local import LocalMethod

DEFAULTS = AveragingSettings(lr=1.0)


class Assembly:
    """The parts of a method's rounds, made in the order in which they need each other.

    `vectors` are those that averaging needs beside x, and those that travel with it. Raises ValueError where the
    settings do not fit what the method sends.
    """

    def __init__(self, method: LocalMethod):
        self.method, self.settings = method, method.settings
        self.ways = self.settings if isinstance(self.settings, AveragingSettings) else DEFAULTS
        self._check()
        self.intervals = self._intervals()
        self.moving = MovingBuffers(method.buffers)
        self.riders: list[Rider] = [self.moving if self.is_delayed else method.buffers, method.statistics]
        if isinstance(self.intervals, MeasuredIntervals):
            self.riders.append(self.intervals)
        self.vectors = self._vectors()
        self.outer = None if self.settings.outer == "none" else OuterStep(self.settings, self.vectors["x_round"])

    @property
    def is_delayed(self) -> bool:
        return self.ways.overlap == "delayed"

    def rounds(self) -> Rounds:
        """All of them together."""
        rule = self._wrapped(self._rule())
        return Rounds(self.intervals, rule, self.vectors, self.outer, torch.initial_seed(), self.method.progress)

    def exchange(self) -> Exchange:
        """The way from the ranks' x to its mean."""
        method, travels = self.method, self.method.named(Sharing.TRAVELS)
        if self.ways.compression != "none":
            x_round, error = self.vectors["x_round"], self.vectors["error"]
            return compressed(self.ways, partial(method.message_of, riders=self.riders), method.space, x_round, error)
        message = method.message_of(1 + len(travels), self.riders)
        self.vectors |= dict(zip(travels, message.vectors[1:], strict=True))
        return Copied(message, method.space.vector()) if self.is_delayed else InPlace(message, message.vectors[0])

    def _check(self) -> None:
        for name in self.ways.beyond_plain if self.method.named(Sharing.TRAVELS) else ():
            raise ValueError(
                f"{name} is {getattr(self.ways, name)!r}; allowed with {self.method.name}: {PLAIN[name] or 'none'}, "
                "since it sends more than x"
            )
        if self.ways.warmup == "gradients" and self.method.needs_closure:
            raise ValueError(f"warmup is 'gradients', but {self.method.name} needs a second gradient; allowed: average")

    def _intervals(self) -> Intervals:
        if self.settings.interval != "auto":
            return Intervals(self.settings.starts)
        comm = self.method.comm
        return MeasuredIntervals(self.settings.starts, comm.rank, comm.size, self.settings.drift_budget)

    def _vectors(self) -> dict[str, Vector]:
        compresses = self.ways.compression != "none"
        names = ["x_round"] if self.settings.needs_x_round or self.settings.outer != "none" or compresses else []
        return {name: self.method.space.vector() for name in [*names, *(["error"] if compresses else [])]}

    def _rule(self) -> Rule:
        method, drift = self.method, self.settings.drift
        if self.ways.fragments is not None:
            fragments = Fragments(method.space, self.ways.fragments, self.riders, drift)
            fragments.message = method.message_of(1, self.riders, space=fragments.spaces[0])
            return fragments
        exchange = method.make_exchange(self)
        before = method.space.vector() if drift or self.is_delayed else None
        if before is None or not self.is_delayed:
            return Plain(exchange, self.outer, before, drift)
        told = method.statistics, method.progress
        return Delayed(exchange, self.outer, before, drift, self.ways.delay, self.moving, *told)

    def _wrapped(self, rule: Rule) -> Rule:
        if self.ways.node_interval is not None:
            given = self.method.comm, self.ways.node_interval, self.settings.weight
            node = self.method.handed.node_average(*given)
            rule = NodeFirst(rule, node)
        if self.ways.warmup == "gradients":
            message = self.method.message_of(1, self.riders, name="warmup")
            rule = GradientWarmup(rule, message, self.settings.warmup_steps)
        return rule
