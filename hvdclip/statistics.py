"""A round's statistics: summed on each rank, carried in the tail of the round's own message."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SUMS = ("steps", "norm", "clipped", "skipped", "overflowed", "loss", "losses", "samples", "drift")


class Statistics:
    """Sums over the steps of a round and a slot per rank for its first step with a non-finite gradient.

    Everything stays on the parameters' device; the host reads once a message.
    """

    def __init__(self, rank: int, ranks: int, device: torch.device):
        self.rank, self.ranks = rank, ranks
        self.size = len(SUMS) + ranks
        self._mine = torch.zeros(self.size, device=device)
        self._agreed = torch.zeros(self.size, device=device)
        self.failed: dict[int, int] = {}
        self.overflowed = False

    def add(self, name: str, value: Tensor | float, *, common: bool = False) -> None:
        """Add to a sum; a `common` value is the same on all ranks and already known to all, so it need not travel."""
        if common:
            self._agreed[SUMS.index(name)] += value * self.ranks
        else:
            self._mine[SUMS.index(name)] += value

    def mark_failed(self, step: int, failed: Tensor) -> None:
        """Note the step (counted from 1 in the round) if `failed` is 1 and it is this rank's first."""
        slot = self._mine[len(SUMS) + self.rank]
        slot += failed * (slot == 0) * step

    def pack(self, tail: Tensor) -> None:
        tail.copy_(self._mine)
        self._mine.zero_()

    def unpack(self, tail: Tensor) -> None:
        self._agreed.copy_(tail).mul_(self.ranks)
        sums = self._agreed.tolist()
        self.failed = {rank: round(step) for rank, step in enumerate(sums[len(SUMS) :]) if step > 0}
        self.overflowed = sums[SUMS.index("overflowed")] > 0

    def summary(self) -> dict[str, Any]:
        """The agreed sums of the last message as the metrics of its round, over all ranks and steps."""
        sums = dict(zip(SUMS, self._agreed.tolist(), strict=False))
        steps, losses = max(1.0, round(sums["steps"])), round(sums["losses"])
        return {
            "loss": sums["loss"] / losses if losses else None,
            "clip_fraction": round(sums["clipped"]) / steps,
            "grad_norm": sums["norm"] / steps,
            "drift": sums["drift"] / self.ranks,
            "samples": round(sums["samples"]),
            "skipped": round(sums["skipped"]),
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"mine": self._mine.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._mine.copy_(state["mine"])
