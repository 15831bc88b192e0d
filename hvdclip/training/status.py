"""What has become of a run: running, done, stopped, failed or died, and whether to start it again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.table import Table

from hvdclip.training import heartbeats, lock
from hvdclip.training.heartbeats import Beat, Ending
from hvdclip.training.rundir import RunDirectory


@dataclass(frozen=True)
class Status:
    """The state of a run, "running" or how it ended, and a text; `requeue`: whether --resume would continue it."""

    state: str
    text: str
    requeue: bool
    beats: list[Beat]


def status(run: RunDirectory) -> Status:
    """What the files of a run show; FileNotFoundError if there are none."""
    if not run.exists():
        raise FileNotFoundError(f"{run.path} has no run: there is no config.yaml in it")
    owner = lock.user(run.path)
    beats = heartbeats.read(run.path)
    if owner is not None:
        return Status("running", f"running: {owner}; {_place(beats)}", False, beats)
    ending = _ending(run, beats)
    saved = run.checkpoints.newest()
    if ending.kind not in ("stopped", "died"):
        return Status(ending.kind, ending.text, False, beats)
    hope = "no checkpoint to resume from" if saved is None else f"resumable from step {saved}"
    return Status(ending.kind, f"{ending.text}; {hope}", saved is not None, beats)


def table(beats: list[Beat]) -> Table:
    """A row for each rank: where it is, or was when last seen."""
    shown = Table("rank", "host", "pid", "step", "round", "state", "signal", "last seen")
    for beat in beats:
        waits = f", waits ({beat.waits})" if beat.waits else ""
        state = beat.ended or f"{beat.state}{waits}"
        age = f"{max(0.0, time.time() - beat.time):.0f} s ago"
        numbers = map(str, (beat.rank, beat.host, beat.pid, beat.step, beat.round))
        shown.add_row(*numbers, state, beat.signal or "", age)
    return shown


def _ending(run: RunDirectory, beats: list[Beat]) -> Ending:
    said = run.summary()["exit"] if run.is_finished() else None
    if not beats:
        if said == "done":
            return Ending("done", said)
        return Ending("failed", f"failed: {said or 'before its first step'}")
    ending = heartbeats.ending(beats)
    # the summary knows who asked to stop
    return ending._replace(text=said) if said is not None and ending.kind == "stopped" else ending


def _place(beats: list[Beat]) -> str:
    return f"{beats[0].state} at step {beats[0].step}" if beats else "setting up"
