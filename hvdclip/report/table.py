"""Runs side by side as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hvdclip.report.runs import Run

METRICS = ("perplexity", "accuracy", "gradient_norm")


def table(runs: Sequence[Run]) -> Table:
    """Last evaluation and totals of finished runs; `bytes` is what a rank sent, next to the share of the largest run.

    For runs that differ only in the seed: means, with the standard deviation of the evaluation.
    """
    metrics = [key for key in METRICS if any(key in row for run in runs for row in run.summaries[0]["final"].values())]
    shown = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown.add_column("run", overflow="fold")
    shown.add_column("split")
    for column in ("steps", "loss", *metrics, "rounds", "bytes", "", "seconds", "in comm."):
        shown.add_column(column, justify="right")
    most = max(run.mean("bytes") for run in runs)
    for run in runs:
        payload = run.mean("bytes")
        for position, (split, row) in enumerate(run.summaries[0]["final"].items()):
            totals = [
                f"{run.mean('rounds'):,.0f}",
                _bytes(payload),
                f"1/{most / payload:.1f}" if 0 < 1.05 * payload < most else "",
                f"{run.mean('seconds'):.1f}",
                f"{run.mean('comm_s'):.1f}",
            ]
            shown.add_row(
                run.label if position == 0 else "",
                split,
                f"{row['step']:,}",
                with_spread(run.final(split, "loss"), ".4f"),
                *(with_spread(run.final(split, key), ",.3f") if key in row else "" for key in metrics),
                *(totals if position == 0 else [""] * len(totals)),
            )
    return shown


def with_spread(values: np.ndarray, form: str) -> str:
    """The mean over seeds, and for several seeds their standard deviation."""
    return format(values.mean(), form) + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
