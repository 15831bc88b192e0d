"""The manifest of a checkpoint: what it is of, and the checksums that show damage to its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from hvdclip.checkpoints import durable

MANIFEST = "manifest.json"
Count = Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """`lines`: bytes of the run's metrics.jsonl and evals.jsonl then; `files`: (bytes, SHA-256) of the checkpoint's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    step: Count
    round: Count
    ranks: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    lines: dict[str, Count]
    files: dict[str, tuple[Count, str]]

    def write(self, folder: Path) -> None:
        made = self.model_dump(mode="json")
        durable.write_text(folder / MANIFEST, json.dumps({"sha256": _digest(made), **made}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The folder's manifest; ValueError if there is none, or it is damaged."""
        try:
            made = json.loads((folder / MANIFEST).read_bytes())
            digest = made.pop("sha256")
            manifest = cls.model_validate(made)
        except FileNotFoundError:
            raise ValueError(f"{MANIFEST} is missing") from None
        except OSError as error:
            raise ValueError(f"{MANIFEST}: {error.strerror or error}") from None
        except (ValidationError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{MANIFEST} is not as it was written") from None
        if digest != _digest(made):
            raise ValueError(f"{MANIFEST} is not as it was written")
        return manifest


def _digest(made: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
