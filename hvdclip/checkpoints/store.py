"""The store: a run's checkpoints as folders step-00000400; those with a sound manifest are complete."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from hvdclip.checkpoints import durable
from hvdclip.checkpoints.manifest import MANIFEST, Manifest

PART, DAMAGED = ".part", ".damaged"


class Damage(ValueError):
    """What is wrong with a checkpoint."""


class Store:
    """The folder `checkpoints` of a run."""

    def __init__(self, path: Path):
        self.path = path

    def folder(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    def part(self, step: int) -> Path:
        """Where a checkpoint is while it is being written."""
        return self.path / f"step-{step:08d}{PART}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, complete or damaged, the newest first."""
        names = (place.name for place in self.path.glob("step-*") if place.is_dir())
        return sorted((int(name[5:]) for name in names if re.fullmatch(r"step-\d{8,}", name)), reverse=True)

    def newest(self) -> int | None:
        """The newest step that has a manifest."""
        return next((step for step in self.steps() if (self.folder(step) / MANIFEST).exists()), None)

    def manifest(self, step: int) -> Manifest:
        """The checkpoint's manifest; Damage if it is missing or not as it was written."""
        try:
            manifest = Manifest.read(self.folder(step))
        except ValueError as error:
            raise Damage(str(error)) from None
        if manifest.step != step:
            raise Damage(f"{MANIFEST} is of step {manifest.step}")
        return manifest

    def check(self, manifest: Manifest, names: Sequence[str]) -> None:
        """Read these files of a checkpoint; Damage names the first one that is not as it was written."""
        for name in names:
            try:
                size, digest = manifest.files[name]
                found = durable.checksum_of(self.folder(manifest.step) / name)
            except KeyError:
                raise Damage(f"{MANIFEST} does not list {name}") from None
            except OSError as error:
                raise Damage(f"{name}: {error.strerror or error}") from None
            if found.bytes != size:
                raise Damage(f"{name} has {found.bytes} bytes instead of {size}")
            if found.sha256 != digest:
                raise Damage(f"{name} is not as it was written (another SHA-256)")

    def commit(self, step: int) -> None:
        """The folder that was being written becomes the checkpoint."""
        self.part(step).rename(self.folder(step))
        durable.sync(self.path)

    def prune(self, keep: int) -> None:
        """Remove all but the `keep` newest checkpoints."""
        for step in self.steps()[keep:]:
            # rename first: a half-removed one would look damaged
            self.folder(step).rename(self.part(step))
            shutil.rmtree(self.part(step))

    def set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that a new one of its step can be written; its files stay."""
        aside = self.folder(step).with_name(f"{self.folder(step).name}{DAMAGED}")
        if aside.exists():
            shutil.rmtree(aside)
        self.folder(step).rename(aside)

    def discard_parts(self) -> None:
        """Remove what was being written when a run ended."""
        for place in self.path.glob(f"*{PART}"):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
