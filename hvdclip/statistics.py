"""A round's statistics: summed on each rank, carried in the tail of the round's own message."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COUNTS = ("steps", "clipped", "skipped", "overflowed", "losses", "samples")
SUMS = (*COUNTS, "loss", "drift", "norm")
QUANTILES = {"grad_norm_p50": 0.5, "grad_norm_p90": 0.9, "grad_norm_p99": 0.99}
# Norms of gradients are counted in bins, eight an octave; the first and the last take what lies beyond.
PER_OCTAVE, LEAST, MOST = 8, -20, 20
BINS = (MOST - LEAST) * PER_OCTAVE + 2
EDGE = 1 / PER_OCTAVE
# Steps after which what they have left is summed, so that a round may be long.
FOLD = 256


class Statistics:
    """Sums over the steps of a round, counts of gradient norms, and a slot per rank for its first failed step.

    Everything stays on the parameters' device; the host reads once a message. A step only leaves its numbers; they
    are summed together, since a step on small tensors would feel each sum.
    """

    def __init__(self, rank: int, ranks: int, device: torch.device):
        self.rank, self.ranks = rank, ranks
        self.size = len(SUMS) + ranks + BINS
        self._mine = torch.zeros(len(SUMS) + ranks, device=device)
        self._counts = torch.zeros(BINS, device=device)
        self._known = dict.fromkeys(SUMS, 0.0)
        self._left: list[tuple[int, Tensor]] = []  # (place among the sums, number)
        self._norms: list[Tensor] = []
        self._failures: list[tuple[int, Tensor]] = []  # (step, whether it failed)
        self._agreed = torch.zeros(self.size)
        self._common: dict[str, Tensor | float] = {}
        self.failed: dict[int, int] = {}
        self.overflowed = False

    def add(self, name: str, value: Tensor | float, *, common: bool = False) -> None:
        """Add to a sum; a `common` value is the same on all ranks and already known to all, so it need not travel."""
        if common:
            self._common[name] = value
        elif isinstance(value, Tensor):
            self._left.append((SUMS.index(name), value))
        else:
            self._known[name] += value

    def add_norm(self, norm: Tensor) -> None:
        """Take the norm of a gradient; what is not finite is not counted."""
        self._norms.append(norm)
        if len(self._norms) >= FOLD:
            self._fold()

    def mark_failed(self, step: int, failed: Tensor) -> None:
        """Note the step (counted from 1 in the round) if `failed` is true and it is this rank's first."""
        self._failures.append((step, failed))

    def pack(self, tail: Tensor) -> None:
        self._fold()
        torch.cat([self._mine, self._counts], out=tail)
        self._mine.zero_()
        self._counts.zero_()
        self._common.clear()

    def _fold(self) -> None:
        """Sum what the steps have left."""
        self._mine[: len(SUMS)] += torch.tensor(list(self._known.values()), device=self._mine.device)
        if self._left:
            places = torch.tensor([place for place, _ in self._left], device=self._mine.device)
            numbers = torch.stack([number for _, number in self._left])
            self._mine.index_add_(0, places, numbers.to(self._mine.dtype))
        if self._norms:
            norms = torch.stack(self._norms).flatten().float()
            finite = norms.isfinite()
            self._mine[SUMS.index("norm")] += norms.where(finite, 0.0).sum()
            # what is not finite lies outside the range of the histogram
            octaves = norms.log2().clamp(LEAST - EDGE, MOST + EDGE).where(finite, 2 * LEAST)
            self._counts += torch.histc(octaves, BINS, LEAST - EDGE, MOST + EDGE)
        if self._failures:
            slot = self._mine[len(SUMS) + self.rank]
            steps = torch.tensor([step for step, _ in self._failures], device=slot.device)
            failed = torch.stack([failed for _, failed in self._failures])
            first = failed & (failed.cumsum(0) == 1)
            slot += (slot == 0) * (first * steps).max()
        self._known = dict.fromkeys(SUMS, 0.0)
        self._left, self._norms, self._failures = [], [], []

    def unpack(self, tail: Tensor) -> None:
        self._agreed.copy_(tail).mul_(self.ranks)
        self._agreed[: len(COUNTS)].round_()
        slots = self._agreed[len(SUMS) : len(SUMS) + self.ranks].tolist()
        self.failed = {rank: round(step) for rank, step in enumerate(slots) if step > 0}
        self.overflowed = self._agreed[SUMS.index("overflowed")].item() > 0

    def agree_alone(self) -> None:
        """Without a message: as if all ranks had done what this one has."""
        tail = torch.zeros(self.size, device=self._mine.device)
        self.pack(tail)
        self.unpack(tail)

    @property
    def norm_counts(self) -> Tensor:
        """How many of the last message's gradient norms fell into each bin, over all ranks and steps."""
        return self._agreed[-BINS:].round()

    def summary(self) -> dict[str, Any]:
        """The agreed sums of the last message as the metrics of its round, over all ranks and steps."""
        sums = dict(zip(SUMS, self._agreed.tolist(), strict=False))
        for name, value in self._common.items():
            sums[name] += float(value) * self.ranks
        steps, losses = max(1.0, sums["steps"]), sums["losses"]
        return {
            "loss": sums["loss"] / losses if losses else None,
            "clip_fraction": sums["clipped"] / steps,
            "grad_norm": sums["norm"] / steps,
            **quantiles(self.norm_counts),
            "drift": sums["drift"] / self.ranks,
            "samples": round(sums["samples"]),
            "skipped": round(sums["skipped"]),
        }

    def state_dict(self) -> dict[str, Tensor]:
        self._fold()
        return {"mine": self._mine.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._fold()
        self._mine.copy_(state["mine"])
        self._counts.copy_(state["counts"])


def quantiles(counts: Tensor) -> dict[str, float | None]:
    """The quantiles of norms that were counted in bins, known to a sixteenth of an octave (4 %)."""
    total = counts.sum()
    if total == 0:
        return dict.fromkeys(QUANTILES)
    reached = counts.cumsum(0)
    return {name: _middle(int((reached < share * total).sum())) for name, share in QUANTILES.items()}


def _middle(place: int) -> float:
    return 0.0 if place == 0 else 2.0 ** (LEAST + (place - 0.5) / PER_OCTAVE)
