"""Runs side by side as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hvdclip.report.runs import Run


def table(runs: Sequence[Run]) -> Table:
    """Last evaluation and totals of finished runs; `bytes` is what a rank handed over, beside the run with the most."""
    metrics = [key for key in ("perplexity", "accuracy") if any(key in row for run in runs for row in _rows(run))]
    shown = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown.add_column("run", overflow="fold")
    shown.add_column("split")
    for column in ("steps", "loss", *metrics, "rounds", "bytes", "", "seconds", "in comm."):
        shown.add_column(column, justify="right")
    most = max(run.summary["bytes"] for run in runs)
    for run in runs:
        summary = run.summary
        for position, row in enumerate(_rows(run)):
            totals = [
                f"{summary['rounds']:,}",
                _bytes(summary["bytes"]),
                f"1/{most / summary['bytes']:.1f}" if 0 < summary["bytes"] < most else "",
                f"{summary['seconds']:.1f}",
                f"{summary['comm_s']:.1f}",
            ]
            shown.add_row(
                run.label if position == 0 else "",
                row["split"],
                f"{row['step']:,}",
                f"{row['loss']:.4f}",
                *(f"{row[key]:,.3f}" if key in row else "" for key in metrics),
                *(totals if position == 0 else [""] * len(totals)),
            )
    return shown


def _rows(run: Run) -> list[dict[str, Any]]:
    return list(run.summary["final"].values())


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
