"""The inner level of a hierarchy: averages over the ranks of one host, between those over all ranks."""

from __future__ import annotations

from collections.abc import Sequence

from hvdclip.averaging.rule import Priced, Rule, Steps, Wrapper
from hvdclip.comm import Communicator, Cost
from hvdclip.flat import HALVES, Vector


class NodeAverage:
    """Averages x over the ranks of this host.

    `weight` is this rank's share in the mean over the host, times the number of the host's ranks. Raises ValueError if
    each host has one rank, or if there is one host: an average inside a node would then do nothing, or be an average
    over all.
    """

    def __init__(self, comm: Communicator, interval: int, weight: float):
        self.interval, self.comm = interval, comm.node()
        sizes = comm.gather(self.comm.size)
        if comm.size > 1 and max(sizes) == 1:
            raise ValueError(f"node_interval is {interval}, but every host has one rank; allowed: none")
        if comm.size > 1 and min(sizes) == comm.size:
            raise ValueError(
                f"node_interval is {interval}, but all {comm.size} ranks are on one host; allowed: none; give "
                "interval this value instead"
            )
        self.share = weight / self.comm.sum([weight], "setup")[0] * self.comm.size
        self.cost = Cost()

    @classmethod
    def known(cls, interval: int, share: float, node: Communicator) -> NodeAverage:
        """A copy, made without the other ranks."""
        made = cls.__new__(cls)
        made.interval, made.share, made.comm, made.cost = interval, share, node, Cost()
        return made

    def average(self, x: Vector) -> None:
        """Replace x by the host's mean, in place; float16 and bfloat16 are averaged in float32."""
        wires = [flat.float() if flat.dtype in HALVES else flat for flat in x.flats]
        if self.share != 1.0:
            for wire in wires:
                wire.mul_(self.share)
        self.cost = self.cost.plus(self.comm.average_(wires, "round", "node"))
        for flat, wire in zip(x.flats, wires, strict=True):
            if flat is not wire:
                flat.copy_(wire)


class NodeFirst(Wrapper):
    """Averages over this host's ranks every I1 steps, and by another rule over all ranks."""

    def __init__(self, rule: Rule, node: NodeAverage):
        super().__init__(rule)
        self.node = node

    @property
    def messages(self) -> Sequence[Priced]:
        return [*self.rule.messages, self.node]

    def after_step(self, method: Steps, ends: bool) -> None:
        self.rule.after_step(method, ends)
        # if an average over all ranks follows at once, it replaces this one
        if method.steps_in_round % self.node.interval == 0 and not (ends and self.rule.settles):
            self.node.average(self.x)
