"""The algorithm section: a method by name, or the user's own method, and its settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hvdclip.comm import SingleRank
from hvdclip.config.given import check_section, with_name
from hvdclip.config.references import import_function
from hvdclip.engine import Bilevel
from hvdclip.errors import ConfigError, message_of
from hvdclip.methods import METHODS, Method, optimizer, register
from hvdclip.settings.inner import OTHERS

# settings whose limits depend on the numbers of ranks and of parameters
OF_THE_RUN = ("participants", "k", "fragments")


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
    checked = check_section(method.Settings, settings, "algorithm", mistakes)
    # a default of the section would replace the inner optimizer's own default of weight decay
    left_out = {"weight", "weight_decay"} if "inner" in settings and "weight_decay" not in settings else {"weight"}
    resolved = {} if checked is None else checked.model_dump(exclude=left_out) | _given(settings, "inner")
    return method, {"name": name} | resolved


def try_method(method: type[Method], settings: dict[str, Any], mistakes: list[str]) -> Method | None:
    """The method on a few numbers and one rank: it refuses the settings that it would refuse on any number of ranks.

    None if it does. The user's own method may need several ranks: the run itself checks it.
    """
    of_the_run = {key: 1 for key in OF_THE_RUN if settings.get(key) is not None}
    inner = settings.get("inner")
    shapes = [(2, 2), (2,)] if isinstance(inner, dict) and OTHERS in inner else [(2, 2)]
    numbers = nn.ParameterList(torch.zeros(shape) for shape in shapes)
    # patterns of names fit the run's model, not these numbers
    with_ours = {k: value for k, value in settings.items() if k not in ("name", "buffer_policy")} | of_the_run
    lower = nn.ParameterList([torch.zeros(2, 2)]) if issubclass(method, Bilevel) else None
    try:
        return optimizer(method.name, numbers, lower_parameters=lower, comm=SingleRank(), **with_ours)
    except Exception as error:
        if ":" not in settings["name"]:
            mistakes.append(f"algorithm: {message_of(error)}")
        return None


def _own_method(name: str, mistakes: list[str]) -> type[Method] | None:
    try:
        chosen: Any = import_function(name)
        return chosen if chosen in METHODS.values() else register(chosen)
    except (ConfigError, TypeError, ValueError) as error:
        mistakes.append(f"algorithm: {error}")
        return None


def _given(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: settings[key]} if key in settings else {}
