"""A run's directory: configuration, metrics, evaluations, summary and models, written by rank 0."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from hvdclip.training import heartbeats, lock

FILES = ("config.yaml", "metrics.jsonl", "evals.jsonl", "summary.json", "checkpoints", "plots", "tensorboard")


class RunDirectory:
    """Names and formats of what a run leaves; see the README for the keys."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def create(self, overwrite: bool = False) -> None:
        """Make the directory; FileExistsError if a run is in it already and may not be overwritten."""
        present = [name for name in FILES if (self.path / name).exists()]
        if present and not overwrite:
            raise FileExistsError(f"{self.path} holds a run already: choose another --run-dir, or --overwrite it")
        if present and "config.yaml" not in present:
            raise FileExistsError(f"{self.path} holds files that are no run's: choose another --run-dir")
        self.claim()
        for name in present:
            place = self.path / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """Keep other runs away for as long as this process lives; FileExistsError where one is alive."""
        self._lock = lock.claim(self.path)
        heartbeats.clear(self.path)

    def write_config(self, resolved: dict[str, Any]) -> None:
        (self.path / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))

    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "config.yaml").read_text())

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl or evals.jsonl."""
        with (self.path / name).open("a") as file:
            file.write(_json(row) + "\n")

    def rows(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def write_summary(self, summary: dict[str, Any]) -> None:
        self._replace("summary.json", lambda part: part.write_text(_json(summary, indent=2) + "\n"))

    def is_finished(self) -> bool:
        return (self.path / "summary.json").exists()

    def summary(self) -> dict[str, Any]:
        """summary.json; FileNotFoundError, saying so, where the run has not ended."""
        file = self.path / "summary.json"
        if not file.exists():
            raise FileNotFoundError(f"{self.path} holds no finished run: there is no summary.json in it")
        return json.loads(file.read_text())

    def saved_step(self) -> int | None:
        """The step of the newest checkpoint."""
        manifests = (self.path / "checkpoints").glob("step-*/manifest.json")
        steps = [int(file.parent.name[5:]) for file in manifests if file.parent.name[5:].isdecimal()]
        return max(steps, default=None)

    def save_model(self, name: str, state: dict[str, Tensor]) -> None:
        """Write a plain state_dict as checkpoints/NAME.pt, for use with or without hvdclip."""

        def place(tensor: Tensor) -> tuple[Any, ...]:
            # a buffer may be the beginning of another one
            return tensor.data_ptr(), tensor.dtype, tensor.shape

        # parameters are views of the message, all of which torch.save would write; tied ones stay one tensor
        copies = {place(tensor): tensor.detach().clone() for tensor in state.values()}
        plain = {name: copies[place(tensor)] for name, tensor in state.items()}
        self._replace(f"checkpoints/{name}.pt", lambda part: torch.save(plain, part))

    def model(self, name: str) -> dict[str, Tensor]:
        file = self.path / "checkpoints" / f"{name}.pt"
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist: the run has not saved its {name} model")
        return torch.load(file, weights_only=True, map_location="cpu")

    def _replace(self, name: str, write: Any) -> None:
        # beside, then renamed: a reader never sees half a file
        part = self.path / f"{name}.part"
        write(part)
        os.replace(part, self.path / name)


def _json(row: dict[str, Any], indent: int | None = None) -> str:
    """JSON knows no infinity and no NaN; null stands for them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(row), indent=indent, allow_nan=False)
