"""A run's directory: configuration, metrics, evaluations, summary and models, written by rank 0."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml

from hvdclip.checkpoints import durable
from hvdclip.checkpoints.manifest import MANIFEST
from hvdclip.checkpoints.store import Store
from hvdclip.training import heartbeats, lock

CONFIG, METRICS, EVALS, SUMMARY = "config.yaml", "metrics.jsonl", "evals.jsonl", "summary.json"
LOGGED = "logged.json"  # the names of the run at W&B and MLflow
FILES = (CONFIG, METRICS, EVALS, SUMMARY, LOGGED, "checkpoints", "plots", "report", "tensorboard", "wandb")
STOP = "STOP"  # a file that asks the run to stop


class RunDirectory:
    """Names and formats of what a run leaves; see docs/first_run.md for the keys."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = Store(self.path / "checkpoints")
        self._lock: IO[str] | None = None

    @classmethod
    def around(cls, file: Path) -> RunDirectory:
        """The run that a file belongs to; FileNotFoundError if it belongs to none."""
        for folder in file.absolute().parents:
            if (folder / CONFIG).exists() and not (folder / MANIFEST).exists():  # a checkpoint has both
                return cls(folder)
        raise FileNotFoundError(f"{file} is not in a run directory: there is no {CONFIG} in its folder or above")

    def create(self, overwrite: bool = False) -> None:
        """Make the directory; FileExistsError if it has a run already that may not be overwritten."""
        present = [name for name in FILES if (self.path / name).exists()]
        if present and not overwrite:
            raise FileExistsError(f"{self.path} has a run already: choose another --run-dir, or --overwrite it")
        if present and CONFIG not in present:
            raise FileExistsError(f"{self.path} has files that do not belong to a run: choose another --run-dir")
        self.claim()
        for name in present:
            place = self.path / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Whether a run has started in it."""
        return (self.path / CONFIG).exists()

    def claim(self) -> None:
        """Keep other runs away as long as this process lives; FileExistsError if one is running."""
        if self._lock is None:
            self._lock = lock.claim(self.path)
        heartbeats.clear(self.path)

    def write_config(self, text: str) -> None:
        durable.write(self.path / CONFIG, lambda file: file.write(text.encode(errors="surrogateescape")))

    def config(self) -> dict[str, Any]:
        """config.yaml; ValueError, saying so, if it is damaged, as for the other files."""
        try:
            found = yaml.safe_load((self.path / CONFIG).read_bytes())
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ValueError(f"{self.path / CONFIG} is damaged: it is not YAML") from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / CONFIG} is damaged: it has no settings")
        return found

    def go_back(self, step: int, lines: Mapping[str, int]) -> None:
        """Remove what was done after a checkpoint: lines, the best and the final model, the summary."""
        for name, size in lines.items():
            if (self.path / name).exists():
                os.truncate(self.path / name, size)
        for file in (self.path / SUMMARY, self.model_file("final"), self.model_file("best")):
            file.unlink(missing_ok=True)
        best = self.checkpoints.folder(step) / "best.pt"
        if best.exists():
            # a link would be the same file, which a later best model must not change
            with best.open("rb") as saved:
                durable.write(self.model_file("best"), partial(shutil.copyfileobj, saved))

    def go_back_to(self, step: int, last: dict[str, Any] | None, evaluations: Sequence[dict[str, Any]]) -> None:
        """Remove what was done after a step; `last` is the last line of the metrics, which may not be written yet."""
        whole = [row for row in self.whole_rows(METRICS) if row["step"] <= step]
        if last is not None and (not whole or whole[-1]["step"] < last["step"]):
            whole.append(last)
        for name, rows in ((METRICS, whole), (EVALS, evaluations)):
            durable.write_text(self.path / name, "".join(as_json(row) + "\n" for row in rows))
        for file in (self.path / SUMMARY, self.model_file("final")):
            file.unlink(missing_ok=True)

    def whole_rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The complete rows, without one that was cut off."""
        yield from _whole(self._lines(name))

    def last_rows(self, name: str, within: int = 1 << 16) -> list[dict[str, Any]]:
        """Complete rows of the file's last bytes, so that a long run's file is not read again and again."""
        file = self.path / name
        if not file.exists():
            return []
        with file.open("rb") as lines:
            start = max(0, lines.seek(0, os.SEEK_END) - within)
            lines.seek(start)
            found = lines.read().decode(errors="replace").splitlines()
        return list(_whole(found[start > 0 :]))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [_parsed(line, self.path / name) for line in self._lines(name)]

    def _lines(self, name: str) -> list[str]:
        file = self.path / name
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def write_summary(self, summary: dict[str, Any]) -> None:
        durable.write_text(self.path / SUMMARY, as_json(summary, indent=2) + "\n")

    def is_finished(self) -> bool:
        return (self.path / SUMMARY).exists()

    def is_done(self) -> bool:
        """Whether it has reached its end, without failing or stopping."""
        return self.is_finished() and self.summary().get("exit") == "done"

    def summary(self) -> dict[str, Any]:
        """summary.json; FileNotFoundError, saying so, if the run has not ended."""
        file = self.path / SUMMARY
        if not file.exists():
            raise FileNotFoundError(f"{self.path} has no finished run: there is no summary.json in it")
        return _parsed(file.read_text(errors="replace"), file)

    def model_file(self, name: str) -> Path:
        """Where the model `final` or `best` is, or `last`, that of the newest checkpoint."""
        newest = self.checkpoints.newest() if name == "last" else None
        if newest is not None:
            return self.checkpoints.folder(newest) / "model.pt"
        return self.checkpoints.path / f"{name}.pt"

    def ranks(self) -> int | None:
        """How many ranks the run, or the checkpoint, has; None if nothing shows it."""
        if self.is_finished():
            return self.summary()["ranks"]
        newest = self.checkpoints.newest()
        return None if newest is None else self.checkpoints.manifest(newest).ranks


def _whole(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: {text[:40]!r} is not a JSON object")
    return found


def as_json(row: dict[str, Any], indent: int | None = None) -> str:
    """JSON has no infinity and no NaN; null replaces them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(row), indent=indent, allow_nan=False)
