"""What a folder shows of the SLURM job that hvdclip submit has made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdclip.checkpoints import durable

NUMBER = "job.json"


@dataclass(frozen=True)
class Submitted:
    """What a folder shows of the job that was made from it."""

    job: str
    runs: Sequence[str]


def submitted(folder: Path) -> Submitted | None:
    """None if there was no job."""
    try:
        return Submitted(**json.loads((folder / NUMBER).read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError):
        raise ValueError(f"{folder / NUMBER} is damaged") from None


def note(folder: Path, job: str, runs: Sequence[str] = ()) -> None:
    """Record a job in the folder."""
    durable.write_text(folder / NUMBER, json.dumps({"job": job, "runs": list(runs)}) + "\n")
