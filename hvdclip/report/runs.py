"""Runs as they lie on disk, read for tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdclip.training.rundir import RunDirectory


@dataclass(frozen=True)
class Run:
    """A finished run: its label, summary, lines of metrics and evaluations."""

    label: str
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    def series(self, key: str) -> np.ndarray:
        """A key of metrics.jsonl over its lines; NaN where it is null."""
        return np.array([np.nan if line[key] is None else line[key] for line in self.metrics], dtype=float)

    def total(self, key: str) -> np.ndarray:
        """A key that counts per line (bytes, round_s), summed up to each line."""
        return np.cumsum(self.series(key))

    def at_evaluations(self, totals: np.ndarray) -> np.ndarray:
        """A running total at the steps of the validation rows."""
        return np.interp([row["step"] for row in self.validation()], self.series("step"), totals)

    def validation(self) -> list[dict[str, Any]]:
        first = self.evaluations[0]["split"]
        return [row for row in self.evaluations if row["split"] == first]


def read(paths: Sequence[str | Path]) -> list[Run]:
    """Read finished runs, labelled by algorithm, interval I and (where it varies) ranks N, else by directory.

    FileNotFoundError or ValueError names a directory that holds none.
    """
    directories = [RunDirectory(path) for path in paths]
    summaries = [directory.summary() for directory in directories]
    for directory, summary in zip(directories, summaries, strict=True):
        if "final" not in summary:
            raise ValueError(f"{directory.path} holds a run that failed: {summary['exit']}")
    labels = [_label(directory.config(), s) for directory, s in zip(directories, summaries, strict=True)]
    if len({s["ranks"] for s in summaries}) > 1:
        labels = [f"{label}, N = {s['ranks']}" for label, s in zip(labels, summaries, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [directory.path.name for directory in directories]
    return [
        Run(label, summary, directory.rows("metrics.jsonl"), directory.rows("evals.jsonl"))
        for label, summary, directory in zip(labels, summaries, directories, strict=True)
    ]


def _label(config: dict[str, Any], summary: dict[str, Any]) -> str:
    interval = config["algorithm"].get("interval")
    return summary["algorithm"] + (f", I = {interval}" if interval else "")
