"""Runs side by side as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter

from hvdclip.report.look import canvas, dress, look, save
from hvdclip.report.runs import Run

POINTS = 80


def plot(runs: Sequence[Run], directory: str | Path) -> list[Path]:
    """Draw loss against samples, seconds and bytes, clip fraction and drift; returns the PNG and SVG written.

    For runs that differ only in the seed the mean is drawn, with a band of one standard deviation.
    """
    figure = canvas(13, 7.2)
    axes = figure.subplots(2, 3)
    loss_axes = list(axes[0])
    labels = ("samples (tokens), all ranks", "seconds (without evaluation)", "bytes sent by a rank")
    for axis, label in zip(loss_axes, labels, strict=True):
        axis.set(xlabel=label, ylabel="loss")
    loss_axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[1][0].set(xlabel="local steps", ylabel="clip fraction", ylim=(-0.03, 1.03))
    axes[1][1].set(xlabel="round", ylabel="drift, mean $||x_i - \\bar x||$")
    for number, run in enumerate(runs):
        style = look(number)
        totals = (run.series("samples"), run.total("round_s"), run.total("bytes"))
        for axis, total in zip(loss_axes, totals, strict=True):
            _loss(axis, run, total, style)
        _curve(axes[1][0], *thinned(run.series("step"), run.series("clip_fraction")), **style)
        drift = run.series("drift")
        if (drift[np.isfinite(drift)] > 0).any():  # ranks of gradient methods never differ
            _curve(axes[1][1], *thinned(run.series("round"), drift), **style)
    if all(run.mean("bytes") for run in runs):
        loss_axes[2].set_xscale("log")
        loss_axes[2].xaxis.set_minor_formatter(NullFormatter())
    _legend(axes[1][2], loss_axes[0], any(len(run.summaries) > 1 for run in runs))
    dress(figure)
    return save(figure, directory, "comparison")


def _loss(axis: Axes, run: Run, total: np.ndarray, style: dict[str, Any]) -> None:
    axis.plot(*(c.mean(axis=0) for c in thinned(total, run.series("loss"))), alpha=0.35, linewidth=1, **style)
    losses = run.validation("loss")
    _curve(axis, run.at_evaluations(total), losses, marker="o", markersize=4, label=_counted(run), **style)


def _curve(axis: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """The mean over the runs (rows), and for several runs a band of one standard deviation."""
    place, mean = x.mean(axis=0), y.mean(axis=0)
    axis.plot(place, mean, **style)
    if len(y) > 1:
        spread = y.std(axis=0, ddof=1)
        axis.fill_between(place, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points per row, each the mean of its neighbours, so that noise does not hide the curve."""
    known = np.isfinite(y).all(axis=0)
    x, y = x[:, known], y[:, known]
    pieces = np.array_split(np.arange(x.shape[1]), min(POINTS, x.shape[1])) if x.shape[1] else []
    return tuple(np.array([[row[p].mean() for p in pieces] for row in rows]) for rows in (x, y))  # type: ignore[return-value]


def _counted(run: Run) -> str:
    return run.label + (f" ({len(run.summaries)} seeds)" if len(run.summaries) > 1 else "")


def _legend(place: Axes, source: Axes, banded: bool) -> None:
    place.axis("off")
    handles, labels = source.get_legend_handles_labels()
    title = "markers: validation; faint: training" + ("\nbands: standard deviation over seeds" if banded else "")
    place.legend(handles, labels, loc="center left", frameon=False, title=title)
