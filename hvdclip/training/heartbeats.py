"""Heartbeats: a small file of each rank that shows others where it is, and how a dead run has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

FOLDER = "heartbeats"
# Beats are a second apart, so the times of ranks that died together differ by up to a second, and files may be late.
TOGETHER_S = 2.0


@dataclass(frozen=True)
class Beat:
    """What a rank was doing at `time` (seconds since 1970 by its host's clock).

    `waits` is the purpose of the collective it waited in, `signal` the last signal that has come. `ended` is its final
    word: "done", "stopped", "failed: why", or "lost: why" if it ended because of other ranks.
    """

    rank: int
    host: str
    pid: int
    step: int
    round: int
    time: float
    state: str
    waits: str | None = None
    signal: str | None = None
    ended: str | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


def write(run: Path, beat: Beat) -> None:
    """Replace the rank's file; its previous contents stay complete if that fails with OSError."""
    file = _file(run, beat.rank)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(beat)) + "\n")
    os.replace(part, file)


def read(run: Path) -> list[Beat]:
    """The last beat of each rank, in the order of ranks; without files that cannot be read."""
    found = (_read(file) for file in sorted((run / FOLDER).glob("rank-*.json")))
    return [beat for beat in found if beat is not None]


def of_rank(run: Path, rank: int) -> Beat | None:
    return _read(_file(run, rank))


def clear(run: Path) -> None:
    """Make the folder, without the beats of the previous attempt."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    for file in (run / FOLDER).glob("rank-*"):
        file.unlink(missing_ok=True)


class Ending(NamedTuple):
    """How the last attempt at a run ended, in one word, and as a text that begins with it."""

    kind: Literal["done", "stopped", "failed", "died"]
    text: str


def ending(beats: Sequence[Beat]) -> Ending:
    """How the ranks that do not run any more ended, from the last beat of each rank."""
    step = max(beat.step for beat in beats)
    failed = [beat for beat in beats if beat.ended and beat.ended.startswith("failed: ")]
    if failed:
        first = _first(failed)
        return Ending("failed", f"failed: {first} at step {first.step}: {_cause(first)}")
    if all(beat.ended == "done" for beat in beats):
        return Ending("done", f"done at step {step}")
    if all(beat.ended in ("stopped", "done") for beat in beats):
        return Ending("stopped", f"stopped at step {step}")
    silent = [beat for beat in beats if beat.ended is None]
    # a launcher sends SIGTERM to the remaining ranks before it kills them
    killed = [beat for beat in silent if beat.signal is None]
    if killed:
        died = [beat for beat in killed if beat.time <= _first(killed).time + TOGETHER_S]
        return Ending("died", f"died: {_named(died)} last seen at step {max(beat.step for beat in died)}")
    lost = [beat for beat in beats if beat.ended and beat.ended.startswith("lost: ")]
    if lost:
        first = _first(lost)
        return Ending("died", f"died: {first} lost the others at step {first.step}: {_cause(first)}")
    first = _first(silent)
    how = f"got {first.signal} at step {first.step} and was killed before it had stopped"
    return Ending("died", f"died: {first} {how}")


def how_it_ended(run: Path) -> str:
    """One line of how the last attempt at a run ended, for the next one; "" if nothing is known."""
    beats = read(run)
    return f"the last attempt {ending(beats).text}" if beats else ""


def _named(died: Sequence[Beat], most: int = 4) -> str:
    shown = ", ".join(map(str, died[:most])) + (f" and {len(died) - most} more" if len(died) > most else "")
    return f"{shown} was killed or its node lost;" if len(died) == 1 else f"{shown} were killed or their nodes lost;"


def _cause(beat: Beat) -> str:
    return (beat.ended or "").partition(": ")[2]


def _first(beats: Sequence[Beat]) -> Beat:
    return min(beats, key=lambda beat: beat.time)


def _file(run: Path, rank: int) -> Path:
    return run / FOLDER / f"rank-{rank:05d}.json"


def _read(file: Path) -> Beat | None:
    try:
        return Beat(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
