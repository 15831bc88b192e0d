"""Draws the runs of jobs/language_models.sh: validation loss against tokens, bytes or seconds.

    python jobs/language_models.py FOLDER {tokens,bytes,seconds}...

FOLDER holds runs named METHOD-SEED; the pictures and a table go there too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from hvdclip.report.look import dress, look, save

NAMES = {
    "adamw": "AdamW, gradients averaged at every step",
    "diloco": "DiLoCo, I = 16",
    "streaming": "Streaming DiLoCo, F = 4, I = 6",
    "streaming_int4": "the same, int4",
}
AXES = {
    "tokens": "tokens of both ranks",
    "bytes": "bytes that a rank has sent",
    "seconds": "seconds of training",
}

Curve = dict[str, np.ndarray]


def read(run: Path) -> Curve:
    """At each evaluation on valid: the loss, and the tokens, bytes and seconds until then."""
    lines, rows = ([json.loads(line) for line in (run / f"{name}.jsonl").open()] for name in ("metrics", "evals"))
    steps = [0, *(line["step"] for line in lines)]
    found = {row["step"]: row["loss"] for row in rows if row["split"] == "valid"}

    def until(key: str) -> np.ndarray:
        return np.interp(list(found), steps, np.cumsum([0, *(line[key] for line in lines)]))

    totals = {"bytes": until("bytes"), "seconds": until("round_s"), "exposed": until("comm_s")}
    tokens = np.interp(list(found), steps, [0, *(line["samples"] for line in lines)])
    return {"loss": np.array(list(found.values())), "tokens": tokens, **totals}


def by_method(folder: Path) -> dict[str, list[Curve]]:
    return {name: [read(run) for run in sorted(folder.glob(f"{name}-[0-9]*"))] for name in NAMES}


def seconds_to(curve: Curve, target: float) -> float | None:
    """When the loss first is at most the target, interpolated between two evaluations."""
    least = np.minimum.accumulate(curve["loss"])
    return None if least[-1] > target else float(np.interp(-target, -least, curve["seconds"]))


def table(methods: dict[str, list[Curve]]) -> str:
    """A row for each method, over its seeds; bytes and seconds are relative to those of AdamW from the same seed."""
    rows = [("method", "final loss", "by AdamW's", "bytes", "times faster to AdamW's final loss", "seconds exposed")]
    rows += [("---",) * len(rows[0]), *(row(NAMES[name], curves, methods["adamw"]) for name, curves in methods.items())]
    return "\n".join(" | ".join(cells) for cells in rows)


def row(name: str, curves: list[Curve], baselines: list[Curve]) -> tuple[str, ...]:
    pairs = list(zip(curves, baselines, strict=True))
    ends = [curve["loss"][-1] for curve in curves]
    ratio = np.mean([mine["loss"][-1] / base["loss"][-1] for mine, base in pairs])
    fewer = np.mean([base["bytes"][-1] / mine["bytes"][-1] for mine, base in pairs])
    times = [(base["seconds"][-1], seconds_to(mine, base["loss"][-1])) for mine, base in pairs]
    faster = [base / mine for base, mine in times if mine]
    in_words = f"{np.mean(faster):.2f} ({len(faster)} of {len(times)} seeds)" if faster else "not reached"
    exposed = np.mean([curve["exposed"][-1] / curve["seconds"][-1] for curve in curves])
    spread = np.std(ends, ddof=1) if len(ends) > 1 else 0.0
    return name, f"{np.mean(ends):.4f} ± {spread:.4f}", f"{ratio:.4f}", f"1/{fewer:.1f}", in_words, f"{exposed:.1%}"


def draw(methods: dict[str, list[Curve]], against: list[str]) -> Any:
    figure, axes = plt.subplots(1, len(against), figsize=(5 * len(against), 4.2), layout="constrained", sharey=True)
    for axis, key in zip(np.atleast_1d(axes), against, strict=True):
        for number, (name, curves) in enumerate(methods.items()):
            for seed, curve in enumerate(curves):
                named = {"label": NAMES[name]} if seed == 0 else {}
                axis.plot(curve[key], curve["loss"], marker="o", markersize=3, **look(number), **named)
        axis.set(xlabel=AXES[key], xscale="log" if key == "bytes" else "linear")
    first = figure.axes[0]
    first.set(ylabel="validation loss, nats per byte")
    first.legend(frameon=False)
    dress(figure)
    return figure


if __name__ == "__main__":
    if len(sys.argv) < 3 or not AXES.keys() >= set(sys.argv[2:]):
        sys.exit(__doc__)
    place, against = Path(sys.argv[1]), sys.argv[2:]
    methods = {name: curves for name, curves in by_method(place).items() if curves}
    print(table(methods))
    for picture in save(draw(methods, against), place, "language_models"):
        print(f"picture: {picture}")
