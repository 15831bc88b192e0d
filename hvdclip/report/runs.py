"""Runs on disk, read for tables and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdclip.training.rundir import EVALS, METRICS, RunDirectory

# settings of the average that a label names if they are set
SHOWN = ("overlap", "delay", "merge_alpha", "compression", "fragments", "node_interval", "state_intervals")


@dataclass(frozen=True)
class Run:
    """Finished runs that differ only in the seed: their label, summaries, lines of metrics and evaluations."""

    label: str
    summaries: list[dict[str, Any]]
    metrics: list[list[dict[str, Any]]]
    evaluations: list[list[dict[str, Any]]]

    def series(self, key: str) -> np.ndarray:
        """A key of metrics.jsonl over its lines, (runs, lines); NaN if it is null."""
        return _array([[line[key] for line in lines] for lines in self.metrics])

    def total(self, key: str) -> np.ndarray:
        """A key that counts per line (bytes, round_s), summed up to each line."""
        return np.cumsum(self.series(key), axis=1)

    def at_evaluations(self, totals: np.ndarray) -> np.ndarray:
        """A running total at the steps of the validation rows, (runs, rows)."""
        steps = self.validation("step")
        return np.array([np.interp(*row) for row in zip(steps, self.series("step"), totals, strict=True)])

    def validation(self, key: str) -> np.ndarray:
        """A key of the rows of the first split, (runs, rows)."""
        return _array([[row[key] for row in rows if row["split"] == rows[0]["split"]] for rows in self.evaluations])

    def mean(self, key: str) -> float:
        """A total in the summary, its mean over the runs."""
        return float(np.mean([summary[key] for summary in self.summaries]))

    def final(self, split: str, key: str) -> np.ndarray:
        """A key of the last evaluation of a split, (runs)."""
        return np.array([summary["final"][split][key] for summary in self.summaries])


def read(paths: Sequence[str | Path]) -> list[Run]:
    """Read finished runs, grouped if they differ only in train.seed.

    Labelled by algorithm, interval I and (if it varies) ranks N, otherwise by directory. FileNotFoundError or
    ValueError names a directory without one.
    """
    directories = [RunDirectory(path) for path in paths]
    summaries = [directory.summary() for directory in directories]
    for directory, summary in zip(directories, summaries, strict=True):
        if "final" not in summary:
            raise ValueError(f"{directory.path} has a run that is not done: {summary['exit']}")
    groups: dict[str, list[int]] = {}
    for number, (directory, summary) in enumerate(zip(directories, summaries, strict=True)):
        groups.setdefault(_but_for_the_seed(directory.config(), summary), []).append(number)
    labels = [_label(directories[members[0]].config(), summaries[members[0]]) for members in groups.values()]
    if len({summary["ranks"] for summary in summaries}) > 1:
        labels = [f"{label}, N = {summaries[m[0]]['ranks']}" for label, m in zip(labels, groups.values(), strict=True)]
    if len(set(labels)) < len(labels):
        labels = [directories[members[0]].path.name for members in groups.values()]
    return [
        Run(
            label,
            [summaries[n] for n in members],
            [_rows(directories[n], METRICS) for n in members],
            [_rows(directories[n], EVALS) for n in members],
        )
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def _rows(run: RunDirectory, name: str) -> list[dict[str, Any]]:
    found = run.rows(name)
    if not found:
        raise ValueError(f"{run.path / name} is damaged: a run that is done must have lines in it")
    return found


def _but_for_the_seed(config: dict[str, Any], summary: dict[str, Any]) -> str:
    """What runs of one group have in common."""
    train = {key: value for key, value in config["train"].items() if key != "seed"}
    return json.dumps([config | {"train": train}, summary["ranks"]], sort_keys=True, default=str)


def _array(rows: list[list[Any]]) -> np.ndarray:
    length = min(map(len, rows))
    return np.array([[np.nan if value is None else value for value in row[:length]] for row in rows], dtype=float)


def _label(config: dict[str, Any], summary: dict[str, Any]) -> str:
    settings = config["algorithm"]
    interval = settings.get("interval")
    words = _in_words(interval) if isinstance(interval, dict) else interval
    shown = [f", {key} {settings[key]}" for key in SHOWN if settings.get(key, "none") not in (None, "none")]
    return summary["algorithm"] + (f", I = {words}" if interval else "") + "".join(shown)


def _in_words(interval: dict[int, int]) -> str:
    from hvdclip.averaging import starts_in_words  # which takes torch, as few runs do

    return starts_in_words(interval)
