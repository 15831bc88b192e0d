"""The parameters that a user hands over, as torch's parameter groups without the frozen ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

Parameters = nn.Module | Iterable[nn.Parameter] | Iterable[dict[str, Any]]
KEYS = ("params", "lr", "weight_decay")


def trainable_groups(model_or_params: Parameters, weight_decay_on: str = "all") -> list[dict[str, Any]]:
    """Groups of trainable parameters; TypeError or ValueError for what is none, or has wrong settings.

    Where weight decay is on "weights", a module's parameters of one dimension are a group without it.
    """
    if isinstance(model_or_params, Tensor):
        raise TypeError("a tensor was given; allowed are a module, an iterable of parameters, or parameter groups")
    if isinstance(model_or_params, nn.Module):
        everything = list(model_or_params.parameters())
        model_or_params = everything if weight_decay_on == "all" else _by_dimensions(everything)
    elif weight_decay_on != "all":
        raise ValueError(f"weight_decay_on is {weight_decay_on!r}; allowed: all, but for a module")
    entries: list[Any] = list(model_or_params)
    groups: list[dict[str, Any]] = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    groups = [group | {"params": _trainable(group)} for group in groups]
    if not any(group["params"] for group in groups):
        raise ValueError("there is no parameter to train: the model has none, or all are frozen")
    for key in ("lr", "weight_decay"):
        for group in groups:
            value = group.get(key, 0)
            if not isinstance(value, float | int) or not 0 <= value < float("inf"):
                raise ValueError(f"parameter group {key} is {value!r}; allowed are numbers from 0")
    if groups[0].get("lr") == 0:
        raise ValueError("the first parameter group's lr is 0; it carries the schedule, so it must be above 0")
    return groups


def module_of(model_or_params: Parameters, groups: list[dict[str, Any]], given: nn.Module | None) -> nn.Module | None:
    """The module whose buffers take part, if one is known: that which holds the parameters, or is given beside them.

    TypeError for what is no module, ValueError for one that does not have all of the groups' parameters.
    """
    if given is None:
        return model_or_params if isinstance(model_or_params, nn.Module) else None
    if not isinstance(given, nn.Module):
        raise TypeError(f"module is a {type(given).__name__}; allowed: the module that the parameters are of")
    its_own = {id(p) for p in given.parameters()}
    foreign = [tuple(p.shape) for group in groups for p in group["params"] if id(p) not in its_own]
    if foreign:
        raise ValueError(
            f"module: {len(foreign)} of the parameters to train are not its own, the first of shape {foreign[0]}; "
            "allowed: the module that has all of them"
        )
    return given


def _by_dimensions(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    return [group for group in ({"params": weights}, {"params": others, "weight_decay": 0.0}) if group["params"]]


def _trainable(group: dict[str, Any]) -> list[nn.Parameter]:
    """The group's parameters that are not frozen, each once though layers may share it."""
    unknown = [key for key in group if key not in KEYS]
    if unknown or "params" not in group:
        raise ValueError(f"parameter group has keys {', '.join(group)}; allowed are {', '.join(KEYS)}")
    params: list[Any] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    params = [p[1] if isinstance(p, tuple) else p for p in params]  # named_parameters() gives pairs
    return [p for p in dict.fromkeys(params) if p.requires_grad]


def defaults_of(settings: Any) -> dict[str, Any]:
    """What holds in a group that does not say otherwise."""
    defaults = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if getattr(settings, "inner", None) is not None and "weight_decay" not in settings.model_fields_set:
        del defaults["weight_decay"]  # the inner optimizer's own default holds
    return defaults
