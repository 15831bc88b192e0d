"""From the optimizer's rounds to lines of metrics.jsonl."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hvdclip.messages.statistics import quantiles
from hvdclip.training.known import known, mean_of_known

SUMS = ("samples", "skipped", "bytes", "comm_s", "round_s")
MEANS = ("loss", "clip_fraction", "grad_norm")


class Metrics:
    """Gathers rounds into lines: each round of a local method, `every` rounds of a gradient method.

    In a line over several rounds, samples, skipped, bytes, comm_s, round_s and waiting_s are sums, loss, clip_fraction
    and grad_norm are means, and the norm's quantiles are those of all rounds; the rest is the last round's value.
    `samples` counts from the start of the run; `seconds` adds up the rounds, without evaluations.
    """

    def __init__(self, every: int):
        self.every = every
        self.samples, self.seconds = 0, 0.0
        self._rounds: list[dict[str, Any]] = []
        self._norm_counts: list[np.ndarray] = []

    def add(self, metrics: dict[str, Any], norm_counts: np.ndarray) -> dict[str, Any] | None:
        """Take a round and the counts of its gradient norms; returns the line that it completes, if it does."""
        self._rounds.append(metrics)
        self._norm_counts.append(norm_counts)
        return self.flush() if len(self._rounds) == self.every else None

    def flush(self) -> dict[str, Any] | None:
        """The line of the rounds that are waiting for one."""
        if not self._rounds:
            return None
        line = dict(self._rounds[-1])
        for key in SUMS:
            line[key] = sum(metrics[key] for metrics in self._rounds)
        for key in MEANS:
            line[key] = mean_of_known([metrics[key] for metrics in self._rounds])
        waits = known(metrics.get("waiting_s") for metrics in self._rounds)
        line["waiting_s"] = sum(waits) if waits else None
        self.samples += line["samples"]
        self.seconds += line["round_s"]
        line["samples"] = self.samples
        line |= quantiles(np.sum(self._norm_counts, axis=0))
        self._rounds, self._norm_counts = [], []
        return line

    def state_dict(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "seconds": self.seconds,
            "rounds": list(self._rounds),
            "norm_counts": [torch.from_numpy(counts) for counts in self._norm_counts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.samples, self.seconds, self._rounds = state["samples"], state["seconds"], list(state["rounds"])
        self._norm_counts = [counts.numpy() for counts in state["norm_counts"]]
