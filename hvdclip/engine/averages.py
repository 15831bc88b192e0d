"""How a local method averages, assembled from its settings: one rule, possibly inside others that wrap it."""

from __future__ import annotations

from collections.abc import Callable
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
    Outer,
    OuterParts,
    OuterStep,
    Plain,
    Rounds,
    Rule,
    States,
    StatesToo,
    compressed,
    fragments_of,
)
from hvdclip.engine.sharing import Sharing
from hvdclip.flat import Part, Space, Vector
from hvdclip.messages import MovingBuffers, Rider
from hvdclip.settings import AveragingSettings
from hvdclip.settings.averaging import PLAIN

if TYPE_CHECKING:
    from hvdclip.engine.local import LocalMethod

DEFAULTS = AveragingSettings(lr=1.0)


class Assembly:
    """The parts of a method's rounds, made in the order in which they need each other.

    `vectors` are those that averaging needs besides x, and those that travel with x. Raises ValueError if the settings
    do not fit what the method sends.
    """

    def __init__(self, method: LocalMethod):
        self.method, self.settings = method, method.settings
        self.ways = self.settings if isinstance(self.settings, AveragingSettings) else DEFAULTS
        self._check()
        self.intervals = self._intervals()
        self.moving = MovingBuffers(method.buffers)
        self.riders: list[Rider] = [self.moving if self.is_delayed else method.buffers, method.statistics]
        self.riders += method.further_riders()
        if isinstance(self.intervals, MeasuredIntervals):
            self.riders.append(self.intervals)
        self.vectors = self._vectors()
        self.parts = self._parts()
        given = getattr(self.settings, "state_intervals", None)
        self.states = None if given is None else States(given, method.space.parameters)
        self.outer = None if self.settings.outer == "none" else self._outer()

    @property
    def is_delayed(self) -> bool:
        return self.ways.overlap == "delayed"

    def rounds(self) -> Rounds:
        """All parts together."""
        rule = self._wrapped(self._rule())
        return Rounds(self.intervals, rule, self.vectors, self.outer, torch.initial_seed(), self.method.progress)

    def exchange(self) -> Exchange:
        """The exchange that makes the mean of the ranks' x."""
        method, travels = self.method, self.method.named(Sharing.TRAVELS)
        if self.is_delayed or self.ways.compression != "none":
            return self._exchange_of(method.space, {"x": method.space.vector()} | self.vectors)
        message = method.message_of([method.space, *map(method.space_of, travels)], self.riders)
        self.vectors |= dict(zip(travels, message.vectors[1:], strict=True))
        plain = InPlace(message, message.vectors[0])
        if self.states is None:
            return plain
        return StatesToo(plain, self.states, partial(method.message_of, riders=self.riders))

    def _exchange_of(self, space: Space, vectors: dict[str, Vector]) -> Exchange:
        """The exchange of vectors that are stored outside of the message."""
        if self.ways.compression == "none":
            return Copied(self.method.message_of(1, self.riders, space=space), vectors["x"], self.is_delayed)
        given = (vectors[name] for name in ("x", "x_round", "error"))
        return compressed(self.ways, partial(self.method.message_of, riders=self.riders, space=space), space, *given)

    def _check(self) -> None:
        for name in self.ways.beyond_plain if self.method.named(Sharing.TRAVELS) else ():
            raise ValueError(
                f"{name} is {getattr(self.ways, name)!r}; allowed with {self.method.name}: {PLAIN[name] or 'none'}, "
                "because it sends more than x"
            )
        if self.settings.outer == "adam":
            self.method.space.refuse_float16("outer: adam")
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

    def _parts(self) -> list[Part]:
        """The parts that averages take in turn, if they do; ValueError for more parts than tensors."""
        space, fragments = self.method.space, self.ways.fragments
        if fragments is None:
            return []
        if fragments > len(space.parameters):
            raise ValueError(
                f"fragments is {fragments}; allowed: 1 to the number of tensors, which is {len(space.parameters)}"
            )
        return [Part(space, places) for places in fragments_of([p.numel() for p in space.parameters], fragments)]

    def _outer(self) -> OuterStep | OuterParts:
        x_round = self.vectors["x_round"]
        if not self.parts:
            return OuterStep(self.settings, x_round)
        steps = [OuterStep(self.settings, part.of(x_round)) for part in self.parts]
        return OuterParts(steps, [part.places for part in self.parts])

    def _rule(self) -> Rule:
        if not self.parts:
            outer = self.outer.step if isinstance(self.outer, OuterStep) else None
            return self._rule_of(self.method.space, self.method.make_exchange(self), outer)
        x = self.method.space.vector()
        return Fragments(x, [self._maker_of(number, x) for number in range(len(self.parts))])

    def _maker_of(self, number: int, x: Vector) -> Callable[[], Plain]:
        """A function that makes the rule of one part of x."""
        part, outer = self.parts[number], None
        vectors = {name: part.of(vector) for name, vector in ({"x": x} | self.vectors).items()}
        if isinstance(self.outer, OuterParts):
            outer = partial(self.outer.step, number)
        return lambda: self._rule_of(part, self._exchange_of(part, vectors), outer)

    def _rule_of(self, space: Space, exchange: Exchange, outer: Outer | None) -> Plain:
        """What is done with an exchange of vectors of this space."""
        method, ways, drift = self.method, self.ways, self.settings.drift
        before = space.vector() if drift or self.is_delayed else None
        if before is None or not self.is_delayed:
            return Plain(exchange, outer, before, drift)
        told = self.moving, method.statistics, method.progress
        return Delayed(exchange, outer, before, drift, ways.delay, ways.merge_alpha, *told)

    def _wrapped(self, rule: Rule) -> Rule:
        if self.ways.node_interval is not None:
            given = self.method.comm, self.ways.node_interval, self.settings.weight
            node = self.method.handed.node_average(*given)
            rule = NodeFirst(rule, node)
        if self.ways.warmup == "gradients":
            message = self.method.message_of(1, self.riders, name="warmup")
            rule = GradientWarmup(rule, message, self.settings.warmup_steps)
        return rule
