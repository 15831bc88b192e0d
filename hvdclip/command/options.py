"""What commands read of their options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hvdclip import project


def whole_numbers(option: str, text: str) -> list[int]:
    """The numbers in a list with commas, in order, each once; ValueError names the option."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{option} is {text!r}; allowed: integers from 1, separated by commas")
    return sorted({int(word) for word in words})


class ConfigFile(click.Path):
    """A YAML file, or the name of an included configuration; its value is a Path."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return project.configuration(Path(os.fsdecode(super().convert(value, param, ctx))))


def touch(file: Path | None) -> None:
    """Learn before a measurement whether its file can be written."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
