"""The sections that name a function: a model, or data, and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, create_model
from torch import nn

from hvdclip import data, models
from hvdclip.config.given import check_section, with_name
from hvdclip.config.references import import_function
from hvdclip.config.sections import Columns, Section, Shards, Windows
from hvdclip.errors import ConfigError
from hvdclip.models.no_device import on_no_device
from hvdclip.problems import PROBLEMS

CLASSIFIERS = ", a classifier of torchvision (resnet50, ...)"
# arguments that a model takes from its data
FROM_DATA = ("vocabulary", "start", "lower_start", "shape", "classes", "samples", "features")


def read_as(source: Any, given: Any, model: Any) -> type[Section]:
    """How ranks read the data with this name; problems and the user's own data need no settings for that.

    A model without a state reads a text in windows. For the user's own model, a given `window` shows this.
    """
    if not isinstance(source, str):
        return Section
    if source in data.LABELLED:
        return Shards
    if source not in data.CORPORA:
        return Section
    is_own = isinstance(model, str) and ":" in model
    in_windows = model in models.STATELESS or (is_own and isinstance(given, dict) and "window" in given)
    return Windows if in_windows or source in data.IN_WINDOWS else Columns


def settings_model(function: Callable[..., Any], exclude: tuple[str, ...] = ()) -> type[BaseModel]:
    """The keyword arguments of a function as a strict settings model."""
    fields: dict[str, Any] = {
        p.name: (
            Any if p.annotation is inspect.Parameter.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for p in inspect.signature(function, eval_str=True).parameters.values()
        if p.name not in exclude
    }
    return create_model(function.__name__, __base__=Section, **fields)


def check_named(
    section: Any,
    path: str,
    registry: Mapping[str, Callable[..., Any]],
    mistakes: list[str],
    exclude: tuple[str, ...] = (),
    find: Callable[[str], Callable[..., Any] | None] | None = None,
    beside: str = "",
    read: type[Section] = Section,
) -> dict[str, Any]:
    """A section that names a function of a registry (or one that `find` finds), or the user's own, and its settings.

    The settings in `read`, by which ranks read data, are next to the function's.
    """
    if section is None:
        return {}
    settings = with_name(section, path, mistakes)
    if settings is None:
        return {}
    name = settings.pop("name", None)
    if isinstance(name, str) and ":" in name:
        try:
            import_function(name)
        except ConfigError as error:
            mistakes.append(f"{path}: {error}")
        return {"name": name} | settings
    try:
        function = (find or registry.get)(name) if isinstance(name, str) else None
    except ValueError as error:  # only torchvision knows this name
        mistakes.append(f"{path}.name is {name!r}; allowed: {', '.join(registry)} or my.module:function ({error})")
        return {}
    if function is None:
        mistakes.append(f"{path}.name is {name!r}; allowed: {', '.join(registry)}{beside} or my.module:function")
        return {}
    model = settings_model(function, exclude)
    if read is not Section:
        model = create_model(path, __base__=(read, model))
    checked = check_section(model, settings, path, mistakes)
    return {} if checked is None else {"name": name} | checked.model_dump()


def try_model(settings: dict[str, Any], mistakes: list[str]) -> bool:
    """Whether its settings are in range; a model on no device shows this without the cost of a real one."""
    if settings.get("name") not in (*models.LANGUAGE, *models.SAMPLES):
        return True
    try:
        drawn_nowhere(settings)
        return True
    except ValueError as error:
        mistakes.append(f"model.{error}")
        return False


def drawn_nowhere(settings: dict[str, Any], shape: tuple[int, ...] = (3, 32, 32), classes: int = 2) -> nn.Module:
    """A named model on no device, for a vocabulary of two, or for labelled samples."""
    of_text = settings["name"] in models.LANGUAGE
    fitting: dict[str, Any] = {"vocabulary": 2} if of_text else {"shape": shape, "classes": classes}
    with on_no_device():
        return models.build(**settings, **fitting)


def try_problem(settings: dict[str, Any], mistakes: list[str]) -> None:
    """A small problem on two ranks finds settings that do not fit together, if it needs no file."""
    if settings.get("name") not in PROBLEMS or "file" in settings:
        return
    small = {"dimension": 1} if "dimension" in settings else {}
    try:
        PROBLEMS[settings["name"]](2, **{key: value for key, value in settings.items() if key != "name"} | small)
    except ValueError as error:
        mistakes.append(str(error))
