"""Writes docs/reference.md: every setting of a configuration and every command, from the code.

python jobs/reference.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hvdclip import data, models
from hvdclip.cli import main
from hvdclip.config import FROM_DATA, Checkpoint, Columns, Comm, Log, Shards, Train, Windows, settings_model
from hvdclip.methods import METHODS
from hvdclip.problems import PROBLEMS
from hvdclip.settings.mistakes import default_in_words

PLACE = Path(__file__).resolve().parent.parent / "docs/reference.md"
HEADER = "setting | default | unit | what it is\n--- | --- | --- | ---"


def reference() -> str:
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `python jobs/reference.py`; a test compares it with the code.",
            "In a unit, x is the unit of the parameters and g that of the gradient.",
            *_algorithms(),
            *_functions("model", models.MODELS, FROM_DATA, "also torchvision's classifiers, by their names"),
            *_functions("data", data.CORPORA | data.LABELLED | PROBLEMS, ("ranks",)),
            *_section("data: how a recurrent model reads a text", Columns),
            *_section("data: how a model without a state (gpt) reads a text", Windows),
            *_section("data: how labelled samples are divided over the ranks and read", Shards),
            *_section("train", Train),
            *_section("checkpoint", Checkpoint),
            *_section("log", Log),
            *_section("comm", Comm),
            *_commands(),
        ]
    )


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {title}\n\n{HEADER}"
    yield from (_row(name, field) for name, field in model.model_fields.items())


def _algorithms() -> Iterator[str]:
    """Each setting once, with the methods that have it."""
    owners: dict[tuple[str, str], list[str]] = {}
    for method in METHODS.values():
        for name, field in method.Settings.model_fields.items():
            owners.setdefault((name, _row(name, field)), []).append(method.name)
    yield f"\n## algorithm\n\n`name` is one of {', '.join(f'`{name}`' for name in METHODS)}, or my.module:Method.\n"
    yield HEADER.replace("what it is", "what it is | of").replace("--- | ---", "--- | --- | ---", 1)
    for (_, row), of in sorted(owners.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        yield f"{row} | {'all' if len(of) == len(METHODS) else ', '.join(of)}"


def _functions(
    title: str, registry: Mapping[str, Callable[..., Any]], exclude: tuple[str, ...], more: str = ""
) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "name | settings and their defaults | what it is\n--- | --- | ---"
    for name, function in registry.items():
        fields = settings_model(function, exclude).model_fields
        words = [f"{key} ({_default(field)})" for key, field in fields.items()]
        yield f"`{name}` | {', '.join(words)} | {_first_line(function)}"
    if more:
        yield f"\n{more[0].upper()}{more[1:]}."


def _commands() -> Iterator[str]:
    yield "\n## Commands\n\ncommand | what it does\n--- | ---"
    for name, command in sorted(main.commands.items()):
        inside = command.commands if isinstance(command, click.Group) else {}
        for words, each in [(name, command)] if not inside else [(f"{name} {n}", c) for n, c in sorted(inside.items())]:
            yield f"`hvdclip {words}` | {_first_line(each.callback)}"
    yield ""


def _row(name: str, field: FieldInfo) -> str:
    unit = field.json_schema_extra.get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
    return f"`{name}` | {_default(field)} | {unit} | {field.description}".replace("||", "\\|\\|")


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else default_in_words(field)


def _first_line(function: Any) -> str:
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE
    place.write_text(reference())
