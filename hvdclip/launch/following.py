"""A run in progress, read from its files: the same view of a run here, on a cluster, or on another host."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from hvdclip.launch import slurm
from hvdclip.launch.submitted import submitted
from hvdclip.training import status
from hvdclip.training.known import known
from hvdclip.training.rundir import EVALS, METRICS, RunDirectory

SHOWN_RANKS, SHOWN_EVALUATIONS = 8, 5
OVER = 20  # lines of metrics over which rates are taken
BETWEEN_S = 10.0  # between two calls of squeue


class Queue:
    """What squeue says of a job. It is called only once in a while, because one daemon serves a whole cluster."""

    def __init__(self) -> None:
        self._job, self._asked = "", -math.inf
        self._said: str | None = None

    def state(self, job: str) -> str | None:
        now = time.monotonic()
        if job != self._job or now > self._asked + BETWEEN_S:
            self._job, self._asked, self._said = job, now, slurm.state(job)
        return self._said


@dataclass(frozen=True)
class Snapshot:
    """What a run's files show at one moment."""

    heading: str
    queued: bool
    lines: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    found: status.Status | None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for: neither the run nor a SLURM job of it is running."""
        return not self.queued and (self.found is None or self.found.state != "running")

    def text(self) -> str:
        """In one line."""
        told = [self.heading] if self.heading else []
        told.append("has not started" if self.found is None else self.found.text)
        if self.lines:
            told.append(" ".join(f"{key} {value}" for key, value in self._progress()))
        return "; ".join(told)

    def picture(self) -> Group:
        parts: list[Any] = [
            f"{self.heading}\n" * bool(self.heading) + (self.found.text if self.found else "has not started")
        ]
        if self.lines:
            progress = Table(*(key for key, _ in self._progress()))
            progress.add_row(*(value for _, value in self._progress()))
            parts.append(progress)
        if self.evaluations:
            parts.append(_evaluations(self.evaluations[-SHOWN_EVALUATIONS:]))
        if self.found is not None and self.found.beats:
            parts.append(status.table(self.found.beats[:SHOWN_RANKS]))
            if len(self.found.beats) > SHOWN_RANKS:
                parts.append(f"and {len(self.found.beats) - SHOWN_RANKS} more ranks")
        return Group(*parts)

    def _progress(self) -> Iterator[tuple[str, str]]:
        last, lines = self.lines[-1], self.lines[-OVER:]
        yield "step", f"{last['step']:,}"
        yield "round", f"{last['round']:,}"
        yield "epoch", f"{last['epoch']:.2f}"
        if last["loss"] is not None:
            yield "loss", f"{last['loss']:.4f}"
        yield "clipped", f"{last['clip_fraction']:.0%}"
        yield "lr", f"{last['lr']:.3g}"
        seconds = sum(line["round_s"] for line in lines)
        if len(lines) > 1 and seconds > 0:
            read = (last["samples"] - lines[0]["samples"]) / (seconds - lines[0]["round_s"])
            yield "samples/s", f"{read:,.0f}"
            yield "in communication", f"{sum(line['comm_s'] for line in lines) / seconds:.0%}"
            # a delayed average may hide the time that ranks would wait for each other
            waits = known(line.get("waiting_s") for line in lines)
            if waits and last["ranks"] > 1:
                waited = min(sum(waits), sum(line["comm_s"] for line in lines))
                yield "waiting for the slowest", f"{waited / seconds:.0%}"


def look(run: RunDirectory, asked: Queue | None = None) -> Snapshot:
    """FileNotFoundError if there is neither a run nor a job that will start one."""
    made = submitted(run.path)
    queued = (asked or Queue()).state(made.job) if made is not None else None
    heading = f"job {made.job}: {queued}" if made is not None and queued else ""
    if not run.exists() and made is not None:
        return Snapshot(heading or f"job {made.job} has left the queue", bool(queued), [], [], None)
    found = status.status(run)
    return Snapshot(heading, bool(queued), run.last_rows(METRICS), run.last_rows(EVALS), found)


def looks(run: RunDirectory, every: float) -> Iterator[Snapshot]:
    """One look after another, until the run is over."""
    asked = Queue()
    while True:
        seen = look(run, asked)
        yield seen
        if seen.is_over:
            return
        time.sleep(every)


def _evaluations(rows: Sequence[dict[str, Any]]) -> Table:
    keys = [key for key in rows[-1] if key not in ("step", "epoch", "split")]
    table = Table("step", "epoch", "split", *keys)
    for row in rows:
        numbers = (f"{row[key]:.4f}" if row.get(key) is not None else "-" for key in keys)
        table.add_row(f"{row['step']:,}", f"{row['epoch']:.2f}", row["split"], *numbers)
    return table
