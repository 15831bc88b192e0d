"""A scaling study as a table and a picture, which distinguish measurements from predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from hvdclip.report.look import COLOURS, canvas, dress, look, save
from hvdclip.scaling.study import REAL, Row, Study, interval_of_mean

SHORT = {"data": "data", "grad.": "gradient", "step": "step", "comm.": "communication", "wait": "waiting"}
PARTS = tuple(SHORT.values())
MARKERS = "osD^v<>"


def table(study: Study) -> Table:
    """A row for each number of ranks, I and kind of data."""
    kind = "strong" if study.made["strong"] else "weak"
    shown = Table("ranks", title=f"{kind} scaling; E = X(N)/(N X(1)), X(1) of one process without Horovod")
    for column in ("I", "reads", "samples/s", "mean ±", "E", *(f"{part}" for part in SHORT)):
        shown.add_column(column, justify="right")
    for column in ("B/sample", "wire", "ms/step", "predicted", "error"):
        shown.add_column(column, justify="right")
    for alone, rows in ((True, study.alone), (False, study.rows)):
        for row in rows:
            shown.add_row(*_cells(study, row, alone))
    shown.caption = "\n".join((*NOTES, *findings(study)))
    shown.caption_justify = "left"
    return shown


NOTES = (
    "samples/s: median over blocks; mean ±: half the 95 % interval of the mean",
    "shares of a step; grad.: forward and backward; comm.: without the wait for the slowest rank",
    "B/sample: bytes that a rank sends for each of its samples",
    "wire: bytes that have left the hosts per sample, by the kernel's interfaces, which do not see RDMA",
    "predicted, ms a step: T_step + T_comm/I + slack/sqrt(I), fitted to the smallest and the largest I of each N (f)",
)


def findings(study: Study) -> Iterator[str]:
    """What the model says, and how reliable it is."""
    error, model = study.error, study.model
    yield "nothing was held out" if error is None else f"median error on what was held out: {error:.1%}"
    if model.alpha is not None and model.bandwidth is not None:
        rate = model.bandwidth / 1.25e8
        off = "" if model.link_error is None else f" (median error {model.link_error:.0%})"
        yield f"the averages fit a link of {rate:.3g} gbit/s and {1e6 * model.alpha:.0f} microseconds a hop{off}"
    elif model.alpha is not None:
        yield "no single link with a latency and a bandwidth explains the averages of all numbers of ranks"
    for ranks, cost in model.costs.items():
        if ranks > 1:
            times = (f"{1e3 * part:.3g}" for part in (cost.step, cost.average, cost.slack))
            parts = "T_step {} ms, T_comm {} ms, slack {} ms".format(*times)
            gain = f"local steps gain at most {cost.bound:.2f}; I = {cost.enough} gets 95 % of that"
            yield f"{ranks} ranks: {parts}; {gain}"


def _cells(study: Study, row: Row, alone: bool) -> list[str]:
    low, high = interval_of_mean(row.rates)
    total = sum(row.part(part) for part in PARTS)
    place = (row.ranks, row.interval)
    predicted, error = "", ""
    if not alone and row.data == REAL:
        seconds = study.model.at(*place)
        predicted = f"{1e3 * seconds:.3g}{'' if place in study.held_out else ' (f)'}"
        error = f"{seconds / row.seconds - 1:+.1%}"
    return [
        "alone" if alone else str(row.ranks),
        str(row.interval),
        row.data,
        f"{np.median(row.rates):,.0f}",
        f"{(high - low) / 2 / row.rates.mean():.1%}" if len(row.rates) > 2 else "",
        f"{study.efficiency(row):.0%}",
        *(f"{row.part(part) / total:.0%}" for part in PARTS),
        f"{row.bytes_a_sample:,.0f}",
        f"{row.wire_a_sample:,.0f}",
        f"{1e3 * row.seconds:.3g}",
        predicted,
        error,
    ]


def plot(study: Study, folder: Path) -> list[Path]:
    """Speed-up and efficiency over N with their ideal lines, parts of a step, measured against predicted."""
    figure = canvas(12, 8.4)
    axes = figure.subplots(2, 2)
    real = [row for row in study.rows if row.data == REAL]
    base = study.base()
    intervals, ranks = sorted({row.interval for row in real}), sorted({row.ranks for row in real})
    for number, interval in enumerate(intervals):
        rows = sorted((row for row in real if row.interval == interval), key=lambda row: row.ranks)
        places = [row.ranks for row in rows]
        style = look(number) | {"linestyle": "", "marker": MARKERS[number % len(MARKERS)]}
        for axis, scale in ((axes[0][0], lambda n: 1.0), (axes[0][1], lambda n: 1.0 / n)):
            middle = [row.rates.mean() / base * scale(row.ranks) for row in rows]
            ends = [np.array(interval_of_mean(row.rates)) / base * scale(row.ranks) for row in rows]
            spread = np.abs(np.array(ends).T - middle)
            axis.errorbar(places, middle, spread, capsize=3, label=f"I = {interval}, measured", **style)
            modelled = [
                float(np.mean(row.found["samples"])) / study.model.at(row.ranks, interval) / base * scale(row.ranks)
                for row in rows
            ]
            axis.plot(places, modelled, color=style["color"], linestyle="--", linewidth=1)
    axes[0][0].plot(ranks, ranks, ":", color="black", label="ideal")
    axes[0][1].axhline(1, linestyle=":", color="black", label="ideal")
    axes[0][0].plot([], [], "--", color="grey", label="model")
    axes[0][0].set(xlabel="ranks N", ylabel="speed-up X(N)/X(1)", xticks=ranks, ylim=(0, None))
    axes[0][1].set(xlabel="ranks N", ylabel="efficiency X(N)/(N X(1))", xticks=ranks, ylim=(0, None))
    axes[0][0].legend(frameon=False, fontsize="small")
    _parts(axes[1][0], study.rows)
    _against(axes[1][1], study)
    dress(figure)
    return save(figure, folder, "scaling")


def _parts(axis: Axes, rows: list[Row]) -> None:
    """Parts of a step on the real data, and next to them on one batch again and again."""
    rows = sorted(rows, key=lambda row: (row.ranks, row.interval, row.data))
    labels = [f"{row.ranks}\n{row.interval}" + "\nsyn." * (row.data != REAL) for row in rows]
    under = np.zeros(len(rows))
    for number, part in enumerate(PARTS):
        heights = np.array([1e3 * row.part(part) for row in rows])
        hatch = ("", "//", "..", "xx", "--")[number]
        axis.bar(
            range(len(rows)), heights, bottom=under, color=COLOURS[number], hatch=hatch, label=part, edgecolor="white"
        )
        under += heights
    axis.set_xticks(range(len(rows)), labels, fontsize="small")
    synthetic = ", syn.: one batch again and again" if any(row.data != REAL for row in rows) else ""
    axis.set(xlabel=f"ranks N, I{synthetic}", ylabel="ms of a step, measured")
    axis.legend(frameon=False, fontsize="small")


def _against(axis: Axes, study: Study) -> None:
    for held, colour, marker, label in ((False, COLOURS[5], "x", "fitted to"), (True, COLOURS[1], "o", "held out")):
        points = [p for place, p in study.measured.items() if (place in study.held_out) == held]
        x = [1e3 * p.seconds for p in points]
        axis.plot(x, [1e3 * study.model.at(p.ranks, p.interval) for p in points], marker, color=colour, label=label)
    most = 1.1e3 * max(p.seconds for p in study.measured.values())
    line = np.array([0, most])
    axis.plot(line, line, ":", color="black", label="exact")
    axis.fill_between(line, 0.9 * line, 1.1 * line, color="grey", alpha=0.15, label="within 10 %", linewidth=0)
    axis.set(xlabel="measured, ms of a step", ylabel="predicted", xlim=(0, most), ylim=(0, most))
    axis.legend(frameon=False, fontsize="small")
