"""The sections that name a function: a model, or data, and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, create_model

from hvdclip import data, models
from hvdclip.config.error import ConfigError
from hvdclip.config.given import check_section, with_name
from hvdclip.config.references import import_function
from hvdclip.config.sections import Columns, Section, Shards
from hvdclip.models.no_device import on_no_device

CLASSIFIERS = ", a classifier of torchvision (resnet50, ...)"
# what a model learns from its data
FROM_DATA = ("vocabulary", "start", "shape", "classes")
# how the ranks read the data of a name; problems and data of one's own need no such settings
READ_AS: dict[str | None, type[Section]] = {
    **dict.fromkeys(data.CORPORA, Columns),
    **dict.fromkeys(data.LABELLED, Shards),
}


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
) -> dict[str, Any]:
    """A section that names a function of a registry (or one that `find` finds), or one's own, and its settings."""
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
    function = (find or registry.get)(name) if isinstance(name, str) else None
    if function is None:
        mistakes.append(f"{path}.name is {name!r}; allowed: {', '.join(registry)}{beside} or my.module:function")
        return {}
    model = settings_model(function, exclude)
    if name in READ_AS:
        model = create_model(path, __base__=(READ_AS[name], model))
    checked = check_section(model, settings, path, mistakes)
    return {} if checked is None else {"name": name} | checked.model_dump()


def try_model(settings: dict[str, Any], mistakes: list[str]) -> None:
    """A model on no device finds settings out of range without the cost of a real one."""
    name = settings.get("name")
    fitting: dict[str, Any] = {"vocabulary": 2} if name in models.LANGUAGE else {"shape": (3, 32, 32), "classes": 2}
    if name not in (*models.LANGUAGE, *models.SAMPLES):
        return
    try:
        with on_no_device():
            models.build(**settings, **fitting)
    except ValueError as error:
        mistakes.append(f"model.{error}")
