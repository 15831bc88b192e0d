"""Simulations side by side: a table, and pictures of the quantities in the theory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hvdclip.report.look import COLOURS, canvas, dress, look, save
from hvdclip.report.table import with_spread
from hvdclip.simulation.trace import Trace, slope


def table(traces: Sequence[Trace], target: float | None) -> Table:
    """The results of each simulation; means over the seeds, with their standard deviation."""
    shown = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown.add_column("ranks", justify="right")
    for column in ("I", "steps", "rounds", "loss", "||grad f||", "clipped", "drift", "2 gamma I", "bytes a rank"):
        shown.add_column(column, justify="right")
    if target is not None:
        shown.add_column(f"steps to {target:g}", justify="right")
        shown.add_column("rounds", justify="right")
    for trace in traces:
        reached = trace.reached(target) if target is not None else None
        shown.add_row(
            f"{trace.ranks:,}",
            _or_dash(trace.interval, ""),
            f"{trace.steps[-1]:,}",
            f"{trace.rounds[-1]:,}",
            with_spread(trace.values[:, -1], ".6g"),
            f"{trace.rms_norm()[-1]:.4g}",
            f"{trace.clip_fraction:.1%}",
            _or_dash(trace.drift, ".4g"),
            _or_dash(trace.bound, ".4g"),
            f"{trace.bytes:,}",
            *([] if target is None else [f"{n:,}" for n in reached] if reached else ["never", ""]),
        )
    return shown


def speed_up(traces: Sequence[Trace], target: float) -> tuple[float, int] | None:
    """(slope of log steps to target over log ranks, most ranks), for the first I; None if fewer than 2 reached it."""
    found = _reached(traces, traces[0].interval, target)
    if len(found) < 2:
        return None
    return slope(*map(list, zip(*found, strict=True))), found[-1][0]


def _reached(traces: Sequence[Trace], interval: int | None, target: float | None) -> list[tuple[int, int]]:
    """(ranks, steps to the target) of those with this I that reached it."""
    return [(t.ranks, r[0]) for t in traces if t.interval == interval and target and (r := t.reached(target))]


def plot(traces: Sequence[Trace], target: float | None, directory: Path) -> list[Path]:
    """Gradient norm, speed-up over the ranks, rounds over I, clip fraction and drift; returns the PNG and SVG."""
    figure = canvas(13, 7.2)
    axes = figure.subplots(2, 3)
    norm, steps, rounds, clipped, drift, legend = axes.flat
    for number, trace in enumerate(traces):
        curve = trace.values.mean(axis=0) if np.isnan(trace.gradient_norms).all() else trace.rms_norm()
        norm.plot(trace.steps, curve, label=_label(trace), linewidth=1, **look(number))
    is_loss = all(np.isnan(trace.gradient_norms).all() for trace in traces)
    norm.set(xlabel="local steps", ylabel="loss" if is_loss else "$||\\nabla f(\\bar x)||$, rms over seeds")
    if any((np.isfinite(line.get_ydata()) & (line.get_ydata() > 0)).any() for line in norm.lines) and not is_loss:
        norm.set(xscale="log", yscale="log")
    if target is not None:
        norm.axhline(target, color="black", linewidth=0.8, linestyle=":")
    _over_ranks(steps, traces, target)
    _over_intervals(rounds, traces, target)
    _by_ranks_or_interval(clipped, traces, [trace.clip_fraction for trace in traces])
    clipped.set(ylabel="clip fraction", ylim=(-0.03, 1.03))
    shares = [t.drift / t.bound if t.drift is not None and t.bound else None for t in traces]
    _by_ranks_or_interval(drift, traces, shares)
    drift.axhline(1, color="black", linewidth=0.8, linestyle=":")
    drift.set(ylabel="largest drift / $2 \\gamma I$")
    legend.axis("off")
    legend.legend(*norm.get_legend_handles_labels(), loc="center left", frameon=False, ncols=1 + len(traces) // 16)
    dress(figure)
    return save(figure, directory, "simulation")


def _by_ranks_or_interval(axis: Axes, traces: Sequence[Trace], values: Sequence[float | None]) -> None:
    """Values over N or I, whichever has more values, with a line for each value of the other."""
    ranks, intervals = ({getattr(t, key) for t in traces} for key in ("ranks", "interval"))
    varied, other = ("interval", "ranks") if len(intervals) > len(ranks) else ("ranks", "interval")
    axis.set_xlabel({"ranks": "ranks N", "interval": "I"}[varied])
    for number, group in enumerate(dict.fromkeys(getattr(trace, other) for trace in traces)):
        known = [
            (getattr(trace, varied), value)
            for trace, value in zip(traces, values, strict=True)
            if getattr(trace, other) == group and value is not None and getattr(trace, varied)
        ]
        if known:
            name = {"ranks": "N", "interval": "I"}[other]
            label = f"{name} = {group}" if group else None
            axis.plot(*zip(*sorted(known), strict=True), "o-", color=COLOURS[number % len(COLOURS)], label=label)
            axis.set(xscale="log")
    if len(axis.lines) > 1:
        axis.legend(frameon=False)


def _over_ranks(axis: Axes, traces: Sequence[Trace], target: float | None) -> None:
    axis.set(xlabel="ranks N", ylabel="steps to the target")
    for number, interval in enumerate(dict.fromkeys(trace.interval for trace in traces)):
        found = _reached(traces, interval, target)
        if len(found) < 2:
            continue
        ranks, steps = map(np.array, zip(*found, strict=True))
        label = f"I = {interval}, slope {slope(list(ranks), list(steps)):.2f}" if interval else None
        axis.plot(ranks, steps, "o-", color=COLOURS[number % len(COLOURS)], label=label)
        axis.plot(ranks, steps[0] * ranks[0] / ranks, ":", color="black", linewidth=0.8)
        axis.set(xscale="log", yscale="log")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False)


def _over_intervals(axis: Axes, traces: Sequence[Trace], target: float | None) -> None:
    axis.set(xlabel="I", ylabel="rounds to the target" if target else "rounds")
    for number, ranks in enumerate(dict.fromkeys(trace.ranks for trace in traces)):
        mine = [trace for trace in traces if trace.ranks == ranks and trace.interval]
        ends = [(t.interval, t.reached(target) if target else (0, int(t.rounds[-1]))) for t in mine]
        found = [(interval, end[1]) for interval, end in ends if end]
        if found:
            axis.plot(*zip(*found, strict=True), "o-", color=COLOURS[number % len(COLOURS)], label=f"N = {ranks}")
            axis.set(xscale="log", yscale="log")


def _label(trace: Trace) -> str:
    return f"N = {trace.ranks}" + (f", I = {trace.interval}" if trace.interval else "")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
