"""The cost model: a step on N ranks that average every I steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hvdclip.bench.traffic import ring_share

ENOUGH = 0.95  # of the possible gain


@dataclass(frozen=True)
class Link:
    """How long an all-reduce takes: bandwidth in bytes per second and direction, latency in seconds per hop.

    A ring sends 2 (N - 1)/N times the vector through each link, after 2 log2 N hops of small messages (trees; a plain
    ring of latency-bound messages would take more).
    """

    name: str
    bandwidth: float
    latency: float

    def average(self, ranks: int, payload: float) -> float:
        """Seconds for `payload` bytes on that many ranks."""
        if ranks == 1:
            return 0.0
        return 2 * math.ceil(math.log2(ranks)) * self.latency + ring_share(ranks) * payload / self.bandwidth


@dataclass(frozen=True)
class StepCost:
    """Seconds of the slowest rank's step, and of an average; `slack` is the wait for late ranks if I = 1.

    It is assumed random from step to step, so that in a round it grows like the square root of its steps.
    """

    step: float
    average: float
    slack: float = 0.0

    def at(self, interval: int) -> float:
        """T(I) = T_step + T_comm/I + slack/sqrt(I)."""
        return self.step + self.average / interval + self.slack / math.sqrt(interval)

    def gain(self, interval: int) -> float:
        """The gain over an average at every step."""
        return self.at(1) / self.at(interval)

    @property
    def bound(self) -> float:
        """The limit of the gain for any I: 1 + (T_comm + slack)/T_step."""
        return 1 + (self.average + self.slack) / self.step

    @property
    def enough(self) -> int:
        """The smallest I that gets 95 % of that: 19 T_comm/T_step without slack."""
        # T_step + T_comm/I + slack/sqrt(I) = T_step/0.95, a quadratic equation in 1/sqrt(I)
        beyond = self.step * (1 / ENOUGH - 1)
        if self.average == 0:
            root = beyond / self.slack if self.slack else math.inf
        else:
            root = (math.sqrt(self.slack**2 + 4 * self.average * beyond) - self.slack) / (2 * self.average)
        return max(1, math.ceil(root**-2 - 1e-9)) if root < math.inf else 1

    def overlapped(self, hidden: float) -> float:
        """A step whose average at every step hides behind that share of the step."""
        return self.step + max(0.0, self.average - hidden * self.step)
