"""The values given for one section, checked against its settings."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hvdclip.config.sections import Section
from hvdclip.settings.mistakes import describe, lines

Part = TypeVar("Part", bound=Section)


def part(section: type[Part], settings: dict[str, Any]) -> Part:
    """The settings that belong to a section."""
    return section(**{key: settings[key] for key in section.model_fields if key in settings})


# settings that one may look for in another section than theirs
INSTEAD = {"algorithm.weight": "train.weighted", "log.drift": "algorithm.drift"}


def check_section(model: type[BaseModel], given: Any, path: str, mistakes: list[str]) -> BaseModel | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        mistakes.append(f"{path} is {given!r}; allowed: settings, valid are {describe(model)}")
        return None
    settings = {str(key): value for key, value in given.items() if value is not None}
    for key in [key for key in settings if f"{path}.{key}" in INSTEAD]:
        mistakes.append(f"{path}.{key}: set {INSTEAD[f'{path}.{key}']} instead")
        del settings[key]
    try:
        return model(**settings)
    except ValidationError as error:
        mistakes += lines(error, model, path)
        return None


def with_name(given: Any, path: str, mistakes: list[str]) -> dict[str, Any] | None:
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, dict):
        return {str(key): value for key, value in given.items() if value is not None}
    mistakes.append(f"{path} is {given!r}; allowed: a name, or name and settings")
    return None


def name_of(given: Any) -> Any:
    """The name that a section gives, if it gives one."""
    return given.get("name") if isinstance(given, dict) else given
