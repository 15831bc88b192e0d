"""Draws the results of `hvdclip bench train` and `hvdclip bench growth`.

    python jobs/bench_plot.py FOLDER links train-2-off.json train-2-1gbit.json ...
    python jobs/bench_plot.py FOLDER growth ranks-1.json ranks-2.json ...

links takes the files of jobs/bench_links.sh, whose names tell nodes and rate; growth one file for each number of ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from hvdclip.report.look import COLOURS, dress, look, save

REFERENCE = "horovod"
BESIDE = ("T_step", "T_comm", REFERENCE)


def read(file: str) -> dict[str, Any]:
    return json.loads(Path(file).read_text())


def links(folder: Path, files: list[str]) -> None:
    """Time of a step relative to that of Horovod's own optimizer, and samples per second, by the rate of the links."""
    runs = {tuple(Path(file).stem.split("-")[1:]): read(file) for file in files}
    numbers = sorted({nodes for nodes, _ in runs}, key=int)
    for nodes in numbers:
        rates = [rate for n, rate in runs if n == nodes]
        found = [runs[nodes, rate]["peers"] for rate in rates]
        names = [name for name in found[0] if name not in BESIDE and all(name in peers for peers in found)]
        figure, axis = plt.subplots(figsize=(2.5 + 0.28 * len(names) * len(rates), 4.6), layout="constrained")
        bars(axis, names, rates, found)
        axis.set(ylabel=f"time of a step / that of {REFERENCE}", title=f"{nodes} nodes, one rank each", ylim=(0, None))
        axis.legend(title="link", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        finish(figure, folder, f"links-{nodes}")


def bars(axis: Axes, names: list[str], rates: list[str], found: list[dict[str, Any]]) -> None:
    """A group of bars for each peer, a bar for each rate: median and quartiles of the blocks' ratios."""
    places, width = np.arange(len(names)), 0.8 / len(rates)
    for number, (rate, peers) in enumerate(zip(rates, found, strict=True)):
        ratios = [np.divide(peers[name]["seconds"], peers[REFERENCE]["seconds"]) for name in names]
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=1)
        axis.bar(
            places + (number - (len(rates) - 1) / 2) * width,
            middle,
            width,
            yerr=(middle - low, high - middle),
            error_kw={"linewidth": 0.8},
            color=COLOURS[number % len(COLOURS)],
            label="no limit" if rate == "off" else rate,
        )
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")


def growth(folder: Path, files: list[str]) -> None:
    """Time of a step and of an average over the number of parameters, with a curve for each number of ranks."""
    figure, (steps, averages) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharex=True)
    for number, run in enumerate(sorted(map(read, files), key=lambda run: run["ranks"])):
        label = f"{run['ranks']} rank{'s' * (run['ranks'] > 1)}"
        curve(steps, run, "step", label=label, **look(number))
        if run["ranks"] > 1:
            curve(averages, run, "average", label=label, **look(number))
            curve(averages, run, "bare average", color=COLOURS[number], linestyle=":", linewidth=1)
    for axis, what in ((steps, "step"), (averages, "average (dotted: bare)")):
        axis.set(xlabel="floats P", ylabel=f"ms of one {what}", xscale="log", yscale="log")
    steps.legend(frameon=False)
    averages.legend(frameon=False)
    finish(figure, folder, "growth")


def curve(axis: Axes, run: dict[str, Any], name: str, **how: Any) -> None:
    sizes = [size["floats"] for size in run["sizes"]]
    low, middle, high = np.transpose(
        [np.quantile(size["peers"][name]["seconds"], (0.25, 0.5, 0.75)) * 1e3 for size in run["sizes"]]
    )
    axis.errorbar(sizes, middle, (middle - low, high - middle), capsize=2, marker="o", markersize=3, **how)


def finish(figure: Any, folder: Path, name: str) -> None:
    for axis in figure.axes:
        axis.yaxis.set_minor_formatter(NullFormatter())
    dress(figure)
    print("picture:", save(figure, folder, name)[0])


PICTURES: dict[str, Callable[[Path, list[str]], None]] = {"links": links, "growth": growth}

if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] not in PICTURES:
        sys.exit(f"usage: {sys.argv[0]} FOLDER {'|'.join(PICTURES)} FILE...")
    PICTURES[sys.argv[2]](Path(sys.argv[1]), sys.argv[3:])
