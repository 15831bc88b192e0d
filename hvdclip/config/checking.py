"""A configuration is checked as a whole: every mistake is reported, one per line, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hvdclip import data, models
from hvdclip.config.algorithm import check_algorithm, try_method
from hvdclip.config.combinations import (
    check_for_data,
    check_for_levels,
    check_for_method,
    check_for_model,
    check_pair,
    fill_window,
)
from hvdclip.config.configuration import Config
from hvdclip.config.given import check_section, name_of, part
from hvdclip.config.named import CLASSIFIERS, FROM_DATA, check_named, read_as, try_model, try_problem
from hvdclip.config.reading import override, read
from hvdclip.config.references import look_beside
from hvdclip.config.sections import SECTIONS, Checkpoint, Columns, Comm, Log, Section, Shards, Train, Windows
from hvdclip.errors import ConfigError
from hvdclip.methods import Method
from hvdclip.problems import PROBLEMS

Settings = dict[str, Any]
# what a problem takes from the run: the number of ranks, and whether they share its lower parameters
OF_THE_ALGORITHM = ("ranks", "lower")

REQUIRED = ("algorithm", "model", "data", "train")
# the sections whose settings are the same for every job
PLAIN: dict[str, type[Section]] = {"train": Train, "checkpoint": Checkpoint, "log": Log, "comm": Comm}
SOURCES: dict[str, Callable[..., Any]] = {**data.CORPORA, **data.LABELLED, **data.BILEVEL, **PROBLEMS}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration; ConfigError has one line per mistake, with the valid keys and their defaults."""
    raw = read(Path(path))
    for given in overrides:
        override(raw, given)
    look_beside(Path(path))
    return replace(check(raw), folder=Path(path).absolute().parent)


def check(raw: dict[str, Any]) -> Config:
    """Check a configuration given as nested dictionaries; ConfigError has one line per mistake."""
    raw = {section: value for section, value in raw.items() if value is not None}
    mistakes = list(_wrong_sections(raw))
    method, algorithm = check_algorithm(raw.get("algorithm"), mistakes)
    model = check_named(raw.get("model"), "model", models.MODELS, mistakes, FROM_DATA, models.find, CLASSIFIERS)
    model_fits = try_model(model, mistakes)
    read = read_as(name_of(raw.get("data")), raw.get("data"), model.get("name"))
    source = check_named(raw.get("data"), "data", SOURCES, mistakes, exclude=OF_THE_ALGORITHM, read=read)
    mistakes += fill_window(read, source, model)
    try_problem(source, mistakes)
    mistakes += check_pair(model.get("name"), source.get("name"))
    plain = {
        name: check_section(section, raw.get(name, None if name in REQUIRED else {}), name, mistakes)
        for name, section in PLAIN.items()
    }
    mistakes += _combined(plain["train"], method, algorithm, model if model_fits else {}, source)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    assert method is not None
    return _checked(method, algorithm, model, source, read, plain)


def check_saved(raw: dict[str, Any]) -> Config:
    """Check the configuration that a run has left, as it is, or of a version in which log had drift."""
    log, algorithm = raw.get("log"), raw.get("algorithm")
    if isinstance(log, dict) and isinstance(algorithm, dict) and "drift" in log:
        drift = {"drift": log["drift"]} if "drift_budget" in algorithm else {}  # gradient methods have none
        rest = {key: value for key, value in log.items() if key != "drift"}
        raw = raw | {"log": rest, "algorithm": algorithm | drift}
    return check(raw)


def _wrong_sections(raw: dict[str, Any]) -> Iterator[str]:
    for section in raw:
        if section not in SECTIONS:
            yield f"{section}: unknown section; valid are {', '.join(SECTIONS)}"
    for section in REQUIRED:
        if section not in raw:
            yield f"{section}: missing; {SECTIONS[section]}"


def _combined(
    train: Any, method: type[Method] | None, algorithm: Settings, model: Settings, source: Settings
) -> Iterator[str]:
    if not isinstance(train, Train):
        return
    yield from check_for_data(train, algorithm, source)
    yield from check_for_model(train, model, source)
    if method is not None:
        yield from check_for_levels(train, method, source)
    if method is not None and len(algorithm) > 1:
        refused: list[str] = []
        tried = try_method(method, algorithm, refused)
        yield from refused if tried is None else check_for_method(train, tried)


def _checked(
    method: type[Method],
    algorithm: dict[str, Any],
    model: dict[str, Any],
    source: dict[str, Any],
    read: type[Section],
    plain: dict[str, Any],
) -> Config:
    """The configuration of sections without mistakes."""
    resolved = {"algorithm": algorithm, "model": model, "data": source}
    resolved |= {name: section.model_dump() for name, section in plain.items()}
    columns = part(Columns, source if read is Columns else {})
    windows = part(Windows, source) if read is Windows else None
    shards = part(Shards, source if read is Shards else {})
    rest = {key: value for key, value in source.items() if key not in read.model_fields}
    named = algorithm | {"name": method.name}
    return Config(named, model, rest, columns, windows, shards, **plain, resolved=resolved)
