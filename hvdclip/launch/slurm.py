"""SLURM's own commands, called and read."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


class Refused(ValueError):
    """SLURM's message when it does not take something."""


def check(script: Path) -> None:
    """Raise Refused if SLURM would never run the script."""
    _ask(["sbatch", "--test-only", str(script)])


def submit(script: Path) -> str:
    """The number of the job that SLURM has made from the script."""
    return _ask(["sbatch", "--parsable", str(script)]).strip().partition(";")[0]


def cancel(job: str) -> None:
    _ask(["scancel", job])


def state(job: str) -> str | None:
    """What squeue says of a job, or of the tasks of an array, one line each; None if it has left the queue."""
    try:
        said = _ask(["squeue", "--noheader", "--array", f"--jobs={job}", "--format=%i %T %R"])
    except Refused:  # a job that ended long ago
        return None
    return said.strip() or None


def _ask(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not on PATH: SLURM does not take jobs from this machine") from None
    if done.returncode:
        raise Refused(f"{command[0]} refuses: {_one_line(done.stderr, command[0])}")
    return done.stdout


def _one_line(text: str, program: str) -> str:
    lines = (line.removeprefix(f"{program}: ").removeprefix("error: ") for line in text.strip().splitlines())
    return "; ".join(dict.fromkeys(filter(None, lines))) or "without a reason"
