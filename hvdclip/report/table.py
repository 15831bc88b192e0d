"""Runs side by side as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hvdclip.report.runs import Run


def table(runs: Sequence[Run]) -> Table:
    """Loss, metric, rounds, bytes and seconds of finished runs; bytes and seconds also as a share of the largest."""
    shown = Table(title="last evaluation and totals", title_justify="left")
    for column in (
        "run",
        "ranks",
        "steps",
        "split",
        "loss",
        "perplexity / accuracy",
        "rounds",
        "bytes a rank",
        "seconds",
    ):
        shown.add_column(column, justify="left" if column in ("run", "split") else "right")
    most_bytes = max(run.summary["bytes"] for run in runs)
    for run in runs:
        summary = run.summary
        for position, row in enumerate(summary["final"].values()):
            metric = row.get("perplexity", row.get("accuracy"))
            totals = [
                f"{summary['rounds']:,}",
                _bytes(summary["bytes"]) + _share(summary["bytes"], most_bytes),
                f"{summary['seconds']:.1f} ({summary['comm_s']:.1f} communicating)",
            ]
            shown.add_row(
                *([run.label, str(summary["ranks"]), f"{summary['step']:,}"] if position == 0 else ["", "", ""]),
                row["split"],
                f"{row['loss']:.4f}",
                "" if metric is None else f"{metric:,.3f}",
                *(totals if position == 0 else ["", "", ""]),
            )
    return shown


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.4g} {unit}"
        count /= 1000
    raise AssertionError


def _share(part: int, whole: int) -> str:
    return f" (1/{whole / part:.1f})" if 0 < part < whole else ""
