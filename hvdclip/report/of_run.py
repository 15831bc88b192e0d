"""The report of a run: its results, its curves, where its time went, its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from hvdclip.report import plot, runs, table
from hvdclip.report.look import COLOURS, canvas, dress, save
from hvdclip.report.page import Picture, Section
from hvdclip.training.rundir import EVALS, RunDirectory

SHOWN = (
    *("algorithm", "ranks", "step", "epoch", "rounds", "parameters", "samples", "bytes"),
    *("seconds", "comm_s", "peak_bytes", "exit"),
)


def sections(run: RunDirectory, folder: Path) -> Iterator[Section]:
    """The sections of the report; pictures go into the folder. ValueError, saying so, for a run that failed."""
    (found,) = runs.read([run.path])
    summary = run.summary()
    seconds = max(summary["seconds"], 1e-9)
    rate, share = summary["samples"] / seconds, summary["comm_s"] / seconds
    words = (
        f"{summary['algorithm']} on {summary['ranks']} ranks: {rate:,.0f} samples a second of all ranks, {share:.0%} "
        "of the time in communication, without evaluations."
    )
    totals = facts({key: summary[key] for key in SHOWN if key in summary}, "totals")
    yield Section("Summary", [words], [table.table([found]), totals])
    curves, _ = plot.plot([found], folder)
    words = "Loss against samples, seconds and bytes; clip fraction and drift. Markers: validation; faint: training."
    yield Section("Curves", pictures=[Picture(curves, words)])
    words = "Seconds of each round, and how many of them are communication."
    yield Section("Time of a round", pictures=[Picture(_rounds(found, folder), words)])
    yield Section("Evaluations", tables=[_evaluations(run)])
    versions = facts(summary["versions"], "versions of rank 0")
    yield Section("Configuration", tables=[versions], verbatim=yaml.safe_dump(run.config(), sort_keys=False))


def facts(pairs: Mapping[str, Any], title: str) -> Table:
    """Names and values."""
    shown = Table("name", "value", title=title)
    for name, value in pairs.items():
        form = "," if isinstance(value, int) else ",.4g" if isinstance(value, float) else ""
        shown.add_row(name, format(value, form))
    return shown


def _evaluations(run: RunDirectory) -> Table:
    rows = run.rows(EVALS)
    shown = Table(*rows[0])
    for row in rows:
        shown.add_row(*(f"{value:.5g}" if isinstance(value, float) else str(value) for value in row.values()))
    return shown


def _rounds(run: runs.Run, folder: Path) -> Path:
    figure = canvas(10, 3.6)
    axis = figure.subplots()
    for key, number, label, style in (("round_s", 0, "the round", "-"), ("comm_s", 1, "communication", "--")):
        ends = run.series("round")[:1]
        of_one = run.series(key)[:1] / np.diff(ends, prepend=0)  # a line of a gradient method covers several rounds
        rounds, seconds = plot.thinned(ends, of_one)
        axis.plot(rounds[0], seconds[0], style, color=COLOURS[number], label=label)
    axis.set(xlabel="round", ylabel="seconds", ylim=(0, None))
    axis.legend(frameon=False)
    dress(figure)
    return save(figure, folder, "rounds")[0]
