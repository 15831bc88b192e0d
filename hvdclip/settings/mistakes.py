"""Mistakes in settings, one line each: where, what was given, what is allowed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def lines(error: ValidationError, model: type[BaseModel], path: str = "") -> list[str]:
    """One line per mistake, each with the setting's path below `path`."""
    return [_line(mistake, model, path) for mistake in error.errors(include_url=False)]


def one_line(error: ValidationError, model: type[BaseModel], prefix: str) -> ValueError | TypeError:
    """The mistakes as one exception: TypeError if a name or type is wrong, otherwise ValueError."""
    types = {mistake["type"] for mistake in error.errors(include_url=False)}
    wrong_type = all(t == "extra_forbidden" or t.endswith("_type") or t == "missing" for t in types)
    return (TypeError if wrong_type else ValueError)(f"{prefix}: " + "; ".join(lines(error, model)))


def _line(mistake: Any, model: type[BaseModel], path: str) -> str:
    location = [str(part) for part in mistake["loc"]]
    where = ".".join([path, *location]) if path else ".".join(location)
    owner = _owner(model, location[:-1])
    if mistake["type"] == "extra_forbidden":
        name = location[-1]
        guess = get_close_matches(name, owner.model_fields, 1, cutoff=0.75)
        hint = f"did you mean {guess[0]}? " if guess else ""
        return f"{where}: unknown setting; {hint}valid are {describe(owner)}"
    if mistake["type"] == "missing":
        return f"{where}: missing; {_meaning(owner.model_fields.get(location[-1]))}"
    text = mistake["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("allowed are ")
    if not location:
        return f"{where or 'settings'}: {text}".removeprefix("settings: ")
    return f"{where} is {mistake['input']!r}; allowed: {text}"


def describe(model: type[BaseModel]) -> str:
    """The settings of a model with their defaults, in one line."""
    if not model.model_fields:
        return "none: it has no settings"
    return ", ".join(
        name if field.is_required() else f"{name} ({default_in_words(field)})"
        for name, field in model.model_fields.items()
    )


def default_in_words(field: FieldInfo) -> str:
    """A setting's default; "none" if it is not set."""
    default = field.get_default(call_default_factory=True)
    return "none" if default is None else str(default)


def _meaning(field: FieldInfo | None) -> str:
    return "it has no default" if field is None else f"{field.description}; it has no default"


def _owner(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    for name in location:
        field = model.model_fields.get(name)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return model
        model = field.annotation
    return model
