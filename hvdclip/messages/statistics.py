"""A round's statistics: summed on each rank, carried in the tail of the round's message."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hvdclip.comm import Communicator
from hvdclip.flat import Scalar
from hvdclip.messages.pace import Pace, waits

COUNTS = ("steps", "clipped", "skipped", "overflowed", "losses", "samples")
REQUESTS = ("stop", "save", "resize")
SUMS = (*COUNTS, "loss", "drift", "norm", "absent", "present", "through", "unfrozen", *REQUESTS)
STEPS, OVERFLOWED, NORM, ABSENT, PRESENT, THROUGH, UNFROZEN = map(
    SUMS.index, ("steps", "overflowed", "norm", "absent", "present", "through", "unfrozen")
)
# REQUESTS are last, right before the ranks' failed steps
ASKED = slice(len(SUMS) - len(REQUESTS), len(SUMS))
QUANTILES = {"grad_norm_p50": 0.5, "grad_norm_p90": 0.9, "grad_norm_p99": 0.99}
# Norms of gradients are counted in bins, eight per octave; the first and the last take what is beyond.
PER_OCTAVE, LEAST, MOST = 8, -20, 20
BINS = (MOST - LEAST) * PER_OCTAVE + 2
# After this many steps the recorded numbers are summed, so that a round may be long; on a device this takes a wait.
FOLD, FOLD_ON_DEVICE = 256, 4096


Place = tuple[int, float, float, float, float]
"""What a message reports of its rank: its steps, its groups' lr and the like as one number, its weight, whether it
has finished, and whether parameters require a gradient that were frozen when the optimizer was made."""


class Statistics:
    """Sums over a round's steps, counts of gradient norms and of steps without a gradient for each of `tensors`.

    Four slots are each rank's own: its first failed step, its number of steps, the number of its groups, its pace.

    A step only records its numbers, on the parameters' device. The host reads them together, once per message, and sums
    them: on small tensors each operation costs a step or a message time.
    """

    on_host = True
    counts_are_whole = True

    def __init__(self, comm: Communicator, tensors: int = 0):
        self.rank, self.ranks = comm.rank, comm.size
        self._absent = slice(len(SUMS) + self.ranks, len(SUMS) + self.ranks + tensors)
        own = self._absent.stop + BINS  # from here on: slots for each rank, written again each time
        self._places, self._groups, self._paces = (
            slice(own + i * self.ranks, own + (i + 1) * self.ranks) for i in range(3)
        )
        self.size = self._paces.stop
        self._sent = np.zeros(self.size)
        self._mine = self._sent[:own]
        self._mine_by_python = self._mine.data.cast("B").cast("d")  # the same memory
        self._agreed = np.zeros(self.size)  # means over the ranks
        self._tail: Tensor | None = None
        self._array = np.zeros(0)
        self.pace = Pace(comm.ledger)
        self._paces_known = False
        self.place: Callable[[], Place] = lambda: (0, 0.0, 1.0, 0.0, 0.0)  # where this rank is
        self.differ = False  # the last message reported ranks at different places
        self._left: list[tuple[int, Tensor]] = []  # (place among the sums, number)
        self._norms: list[Scalar] = []
        self._failures: list[tuple[int, Tensor | bool]] = []  # (step, whether it failed)
        self._alike: dict[str, Tensor | float] = {}
        self.failed: dict[int, int] = {}
        self.overflowed = False
        self.all_through = False  # a message reported that no rank takes another step
        self.unfrozen = False  # a message reported that some rank has unfrozen parameters
        self.asked: set[str] = set()  # what any rank has requested, as messages reported
        self.answered = False  # the next message's requests were answered before this state was loaded

    def add(self, name: str, value: Tensor | float, *, alike: bool = False) -> None:
        """Add to a sum; a value that is `alike`, the same on all ranks and known to all, need not travel."""
        if alike:
            self._alike[name] = value
        elif isinstance(value, Tensor):
            self._left.append((SUMS.index(name), value))
        else:
            self._mine[SUMS.index(name)] += value

    def add_norm(self, norm: Scalar) -> None:
        """Take the norm of a gradient; values that are not finite do not count."""
        self._norms.append(norm)
        left = len(self._norms)
        if left >= FOLD and (left >= FOLD_ON_DEVICE or not isinstance(norm, Tensor)):
            self.fold()

    def mark_failed(self, step: int, failed: Tensor | bool) -> None:
        """Note the step (counted from 1 in the round) if `failed` is true and it is this rank's first."""
        if failed is not False:
            self._failures.append((step, failed))

    def mark_absent(self, places: Sequence[int]) -> None:
        """Note that a step has no gradient for the parameters at these places."""
        self._mine[ABSENT] += len(places)
        self._mine[self._absent][list(places)] += 1

    def absent_everywhere(self) -> list[int]:
        """The places for which no step of any rank up to the last message had a gradient."""
        if not self._agreed.item(ABSENT):
            return []
        counts, steps = self._summed(self._absent), self._agreed.item(STEPS) * self.ranks
        return np.flatnonzero(np.rint(counts) == round(steps)).tolist()

    def ask(self, request: str) -> None:
        """Send all ranks one of REQUESTS; each finds it in `asked`, at the same step, once the message is taken."""
        self._mine[SUMS.index(request)] = 1

    def pack(self, tail: Tensor) -> None:
        self.fold()
        self._sent[self._paces.start + self.rank] = self.pace.lap()
        steps, groups, self._mine[PRESENT], self._mine[THROUGH], self._mine[UNFROZEN] = self.place()
        self._sent[self._places.start + self.rank], self._sent[self._groups.start + self.rank] = steps, groups
        self._array_of(tail)[:] = self._sent
        self._mine.fill(0)
        self._alike.clear()

    def fold(self) -> None:
        """Sum what the steps have recorded; if it is on a device, the device has then done the steps."""
        left, norms = self._left, self._norms
        if not (left or norms or self._failures):
            return
        numbers = [*(number for _, number in left), *norms, *(failed for _, failed in self._failures)]
        # Python sums a message's few numbers faster than NumPy or torch
        read, mine = iter(_on_host(numbers)), self._mine_by_python
        for (place, _), number in zip(left, read, strict=False):
            mine[place] += number
        for _, norm in zip(norms, read, strict=False):
            if math.isfinite(norm):
                mine[NORM] += norm
                mine[_bin(norm) - BINS] += 1
        slot = len(SUMS) + self.rank
        for (step, _), failed in zip(self._failures, read, strict=True):
            if failed and mine[slot] == 0:
                mine[slot] = step
        self._left, self._norms, self._failures = [], [], []

    def unpack(self, tail: Tensor) -> None:
        self._agreed[:] = self._array_of(tail)
        self._paces_known = True
        # Python's numbers, because an operation of NumPy's would cost a message time
        self.overflowed = self._agreed.item(OVERFLOWED) > 0
        # Horovod multiplies by 1/N, which is rounded: a mean of ones may differ from 1
        self.all_through = round(self._agreed.item(THROUGH) * self.ranks) == self.ranks
        self.unfrozen = self._agreed.item(UNFROZEN) > 0
        told = self._agreed[ASKED.start : len(SUMS) + self.ranks].tolist()
        asked, failed = told[: len(REQUESTS)], told[len(REQUESTS) :]
        steps, groups = self._agreed[self._places].tolist(), self._agreed[self._groups].tolist()
        self.differ = not steps.count(steps[0]) == groups.count(groups[0]) == self.ranks
        self.failed = {}
        if any(failed):
            self.failed = {rank: round(step * self.ranks) for rank, step in enumerate(failed) if step > 0}
        if any(asked) and not self.answered:
            self.asked |= {request for request, share in zip(REQUESTS, asked, strict=True) if share > 0}
        self.answered = False

    def _array_of(self, tail: Tensor) -> np.ndarray:
        """The tail's own memory."""
        if tail is not self._tail:
            # most messages have one tail for all rounds, and a new array would cost time
            self._tail, self._array = tail, tail.numpy()
        return self._array

    @property
    def present(self) -> float:
        """The weight of the ranks that have sent the last message; 1 if all of them count."""
        return self._agreed.item(PRESENT)

    def unlike_steps(self) -> dict[int, int]:
        """Each rank's steps in the last message, if they differ between ranks; otherwise nothing."""
        steps = self._agreed[self._places].tolist()
        return {rank: round(step * self.ranks) for rank, step in enumerate(steps)} if len(set(steps)) > 1 else {}

    @property
    def worked(self) -> list[float]:
        """Each rank's seconds of own work up to the last message; none if there was no message."""
        return self._summed(self._paces).tolist() if self._paces_known else []

    def agree_alone(self) -> None:
        """Without a message: as if all ranks had done what this one has; its requests remain to be sent."""
        tail = torch.zeros(self.size, dtype=torch.float64)
        untold = self.take_requests()
        self.pack(tail)
        self.unpack(tail)
        self._paces_known = self.differ = False  # nothing is known of the other ranks
        for request in untold:
            self.ask(request)

    def take_requests(self) -> set[str]:
        """This rank's requests that have not been sent; no message sends them any more."""
        untold = {request for request in REQUESTS if self._mine[SUMS.index(request)]}
        self._mine[ASKED] = 0
        return untold

    @property
    def norm_counts(self) -> np.ndarray:
        """How many of the last message's gradient norms were in each bin, over all ranks and steps."""
        return np.rint(self._summed(slice(self._places.start - BINS, self._places.start)))

    def _summed(self, part: slice) -> np.ndarray:
        return np.multiply(self._agreed[part], self.ranks, dtype=np.float64)

    def summary(self) -> dict[str, Any]:
        """The agreed sums of the last message as the metrics of its round, over all ranks and steps."""
        sums = dict(zip(SUMS, self._summed(slice(len(SUMS))).tolist(), strict=True))
        if self.counts_are_whole:
            sums |= {name: round(sums[name]) for name in COUNTS}
        for name, value in self._alike.items():
            self._alike[name] = number = float(value)  # read from a device once
            sums[name] += number * self.ranks
        steps, losses = max(1.0, sums["steps"]), sums["losses"]
        return {
            "loss": sums["loss"] / losses if losses else None,
            "clip_fraction": sums["clipped"] / steps,
            "grad_norm": sums["norm"] / steps,
            **quantiles(self.norm_counts),
            "drift": sums["drift"] / self.ranks,
            "samples": round(sums["samples"]),
            "skipped": round(sums["skipped"]),
            **waits(self.worked),
        }

    def state_dict(self) -> dict[str, Tensor]:
        self.fold()
        mine = torch.tensor(self._mine)
        # a resumed run must not be stopped by a request from before
        mine[ASKED] = 0
        return {"mine": mine}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.fold()
        torch.from_numpy(self._mine).copy_(self._laid_out_now(state["mine"]))

    def _laid_out_now(self, mine: Tensor) -> Tensor:
        """Sums that were saved for fewer tensors, or before parameters without a gradient were counted."""
        new, tensors = UNFROZEN + 1 - ABSENT, self._absent.stop - self._absent.start
        counted = len(mine) - (len(self._mine) - tensors)
        if counted == -new:  # it has neither those sums nor the counts of tensors
            mine, counted = torch.cat([mine[:ABSENT], mine.new_zeros(new), mine[ABSENT:]]), 0
        if not 0 <= counted < tensors:
            return mine
        end = self._absent.start + counted
        return torch.cat([mine[:end], mine.new_zeros(tensors - counted), mine[end:]])


def quantiles(counts: np.ndarray) -> dict[str, float | None]:
    """The quantiles of norms that were counted in bins, exact to a sixteenth of an octave (4 %)."""
    total = counts.sum()
    if total == 0:
        return dict.fromkeys(QUANTILES)
    reached = counts.cumsum(0)
    return {name: _middle(int((reached < share * total).sum())) for name, share in QUANTILES.items()}


def _on_host(numbers: list[Any]) -> list[float]:
    """Those on a device are read in one transfer; on the CPU that would take longer than the numbers."""
    there = [number for number in numbers if isinstance(number, Tensor) and not number.is_cpu]
    if not there:
        return list(map(float, numbers))
    read = iter(torch.stack(there).tolist())
    return [float(next(read)) if isinstance(n, Tensor) and not n.is_cpu else float(n) for n in numbers]


def _bin(norm: float) -> int:
    octave = math.log2(norm) if norm > 0 else -math.inf
    return 0 if octave < LEAST else min(BINS - 1, int((octave - LEAST) * PER_OCTAVE) + 1)


def _middle(place: int) -> float:
    return 0.0 if place == 0 else 2.0 ** (LEAST + (place - 0.5) / PER_OCTAVE)
