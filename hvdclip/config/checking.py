"""A configuration is checked as a whole: every mistake is told, on one line, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hvdclip import data, models
from hvdclip.config.algorithm import check_algorithm
from hvdclip.config.combinations import check_for_data, check_pair
from hvdclip.config.configuration import Config
from hvdclip.config.error import ConfigError
from hvdclip.config.given import check_section, part
from hvdclip.config.named import CLASSIFIERS, FROM_DATA, READ_AS, check_named, try_model
from hvdclip.config.reading import override, read
from hvdclip.config.sections import SECTIONS, Checkpoint, Columns, Comm, Log, Section, Shards, Train
from hvdclip.methods import Method
from hvdclip.problems import PROBLEMS

Settings = dict[str, Any]

REQUIRED = ("algorithm", "model", "data", "train")
# the sections whose settings are the same for every job
PLAIN: dict[str, type[Section]] = {"train": Train, "checkpoint": Checkpoint, "log": Log, "comm": Comm}
SOURCES: dict[str, Callable[..., Any]] = {**data.CORPORA, **data.LABELLED, **PROBLEMS}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration; ConfigError has one line per mistake, with the valid keys and their defaults."""
    raw = read(Path(path))
    for given in overrides:
        override(raw, given)
    return check(raw)


def check(raw: dict[str, Any]) -> Config:
    """Check a configuration given as nested dictionaries; ConfigError has one line per mistake."""
    raw = {section: value for section, value in raw.items() if value is not None}
    mistakes = list(_wrong_sections(raw))
    method, algorithm = check_algorithm(raw.get("algorithm"), mistakes)
    model = check_named(raw.get("model"), "model", models.MODELS, mistakes, FROM_DATA, models.find, CLASSIFIERS)
    try_model(model, mistakes)
    source = check_named(raw.get("data"), "data", SOURCES, mistakes, exclude=("ranks",))
    check_pair(model.get("name"), source.get("name"), mistakes)
    plain = {
        name: check_section(section, raw.get(name, None if name in REQUIRED else {}), name, mistakes)
        for name, section in PLAIN.items()
    }
    check_for_data(plain["train"], algorithm, source, mistakes)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    assert method is not None
    return _checked(method, algorithm, model, source, plain)


def _wrong_sections(raw: dict[str, Any]) -> Iterator[str]:
    for section in raw:
        if section not in SECTIONS:
            yield f"{section}: unknown section; valid are {', '.join(SECTIONS)}"
    for section in REQUIRED:
        if section not in raw:
            yield f"{section}: missing; {SECTIONS[section]}"


def _checked(
    method: type[Method],
    algorithm: dict[str, Any],
    model: dict[str, Any],
    source: dict[str, Any],
    plain: dict[str, Any],
) -> Config:
    """The configuration of sections without mistakes."""
    resolved = {"algorithm": algorithm, "model": model, "data": source}
    resolved |= {name: section.model_dump() for name, section in plain.items()}
    read_as = READ_AS.get(source.get("name"), Section)
    columns = part(Columns, source if read_as is Columns else {})
    shards = part(Shards, source if read_as is Shards else {})
    rest = {key: value for key, value in source.items() if key not in read_as.model_fields}
    algorithm = algorithm | {"name": method.name}
    if "drift" in method.Settings.model_fields:
        algorithm |= {"drift": plain["log"].drift}
    return Config(algorithm, model, rest, columns, shards, **plain, resolved=resolved)
