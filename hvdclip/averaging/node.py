"""The inner level of a hierarchy: averages over the ranks of one host, between those over all ranks."""

from __future__ import annotations

from hvdclip.comm import Communicator, Cost
from hvdclip.flat import HALVES, Vector


class NodeAverage:
    """Averages x over the ranks of this host.

    `weight` is this rank's share in the mean over the host, times the number of its ranks. Raises ValueError where
    there is one rank on each host, or one host: no average inside a node would then be another than none, or all.
    """

    def __init__(self, comm: Communicator, interval: int, weight: float):
        self.interval, self.comm = interval, comm.node()
        sizes = comm.gather(self.comm.size)
        if comm.size > 1 and max(sizes) == 1:
            raise ValueError(f"node_interval is {interval}, but every host has one rank; allowed here: none")
        if comm.size > 1 and min(sizes) == comm.size:
            raise ValueError(
                f"node_interval is {interval}, but all {comm.size} ranks are on one host; allowed here: none, and "
                "interval for what node_interval would do"
            )
        self.share = weight / self.comm.sum([weight], "setup")[0] * self.comm.size
        self.cost = Cost()

    def average(self, x: Vector) -> None:
        """Replace x by the host's mean, in place; halves are averaged in float32."""
        wires = [flat.float() if flat.dtype in HALVES else flat for flat in x.flats]
        if self.share != 1.0:
            for wire in wires:
                wire.mul_(self.share)
        self.cost = self.cost.plus(self.comm.average_(wires, "round", "node"))
        for flat, wire in zip(x.flats, wires, strict=True):
            if flat is not wire:
                flat.copy_(wire)
