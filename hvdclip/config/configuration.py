"""A checked configuration, and the differences between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hvdclip.config.references import BESIDE
from hvdclip.config.sections import Checkpoint, Columns, Comm, Log, Shards, Train, Windows


@dataclass(frozen=True)
class Config:
    """A checked configuration; `resolved` is all of it with the defaults filled in."""

    algorithm: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    columns: Columns
    windows: Windows | None  # for models that read a text in windows
    shards: Shards
    train: Train
    checkpoint: Checkpoint
    log: Log
    comm: Comm
    resolved: dict[str, Any]
    folder: Path | None = None  # of the YAML file

    def as_yaml(self) -> str:
        """`resolved`, and where to look for the user's own modules when it is read again elsewhere."""
        names = (self.model["name"], self.data["name"], self.resolved["algorithm"]["name"], self.train.loss)
        text = yaml.safe_dump(self.resolved, sort_keys=False)
        is_own = self.folder is not None and any(":" in name for name in names)
        return f"{BESIDE}{self.folder}\n{text}" if is_own else text

    @property
    def interval(self) -> int | None:
        """I if it is one number for the whole run."""
        interval = self.algorithm.get("interval")
        return interval if isinstance(interval, int) else None


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key's path, old value, new value) for each difference between two resolved configurations."""
    then, today = (dict(flat(yaml.safe_load(yaml.safe_dump(each)))) for each in (before, now))
    for key in dict.fromkeys((*then, *today)):
        if then.get(key) != today.get(key):
            yield key, then.get(key), today.get(key)


def flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key's path, value) of nested settings."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings
