"""The algorithm section: a method by name, or one of the user's own, and its settings."""

from __future__ import annotations

from typing import Any

from hvdclip.config.error import ConfigError
from hvdclip.config.given import check_section, with_name
from hvdclip.config.references import import_function
from hvdclip.methods import METHODS, Method, register


def check_algorithm(section: Any, mistakes: list[str]) -> tuple[type[Method] | None, dict[str, Any]]:
    if section is None:
        return None, {}
    settings = with_name(section, "algorithm", mistakes)
    if settings is None:
        return None, {}
    name = settings.pop("name", None)
    if isinstance(name, str) and ":" in name:
        method = _own_method(name, mistakes)
    else:
        method = METHODS.get(name) if isinstance(name, str) else None
        if method is None:
            mistakes.append(f"algorithm.name is {name!r}; allowed: {', '.join(METHODS)} or my.module:Method")
    if method is None:
        return None, {}
    for key, instead in (("drift", "log.drift"), ("weight", "train.weighted")):
        if key in settings:
            mistakes.append(f"algorithm.{key}: set {instead} instead")
            del settings[key]
    checked = check_section(method.Settings, settings, "algorithm", mistakes)
    resolved = {} if checked is None else checked.model_dump(exclude={"drift", "weight"}) | _given(settings, "inner")
    return method, {"name": name} | resolved


def _own_method(name: str, mistakes: list[str]) -> type[Method] | None:
    try:
        chosen: Any = import_function(name)
        return chosen if chosen in METHODS.values() else register(chosen)
    except (ConfigError, TypeError, ValueError) as error:
        mistakes.append(f"algorithm: {error}")
        return None


def _given(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: settings[key]} if key in settings else {}
