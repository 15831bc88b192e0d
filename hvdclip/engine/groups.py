"""The parameters that a user passes, as torch's parameter groups without the frozen ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hvdclip.settings import SgdSettings
from hvdclip.torch_private import TAKES_NAMES

Parameters = nn.Module | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]] | Iterable[dict[str, Any]]
# lr_scale is for schedulers: those of timm multiply a group's lr by it
KEYS = ("params", "lr", "weight_decay", "name", "lr_scale")
# of hvdclip's own SGD with momentum; with torch's names, so that schedulers find them
SGD_KEYS = ("momentum", "dampening", "nesterov")
NAMES = "param_names"  # torch's key for the names of a group's parameters
ROLE = "role"  # of a group in bilevel training: UPPER or LOWER
UPPER, LOWER = "upper", "lower"
LIMITS = {"lr": float("inf"), "weight_decay": float("inf"), "momentum": 1.0}  # allowed are numbers from 0 to below that


def trainable_groups(
    model_or_params: Parameters, settings: Any, frozen: list[Any] | None = None
) -> list[dict[str, Any]]:
    """Groups of trainable parameters; TypeError or ValueError for other things or wrong settings.

    If weight decay is on "weights", a module's parameters of one dimension become a group without it. Frozen parameters
    are appended to `frozen`, a list for each group, with their names if they have any.
    """
    if isinstance(model_or_params, Tensor | set | frozenset):
        what = "a tensor" if isinstance(model_or_params, Tensor) else "a set, which has no order,"
        raise TypeError(f"{what} was given; allowed: a module, an iterable of parameters, or parameter groups")
    if isinstance(model_or_params, nn.parallel.DistributedDataParallel):
        raise TypeError(
            "a DistributedDataParallel was given, which would average every gradient in addition to hvdclip; "
            "allowed: the module inside it, trained without it"
        )
    if isinstance(model_or_params, nn.Module):
        everything = list(model_or_params.parameters())
        model_or_params = everything if settings.weight_decay_on == "all" else _by_dimensions(everything)
    elif settings.weight_decay_on != "all":
        raise ValueError(f"weight_decay_on is {settings.weight_decay_on!r}; allowed: all; or pass a module")
    entries: list[Any] = list(model_or_params)
    groups: list[dict[str, Any]] = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    left: list[list[Any]] = [[] for _ in groups]
    groups = [_checked(group, settings, its_own) for group, its_own in zip(groups, left, strict=True)]
    if frozen is not None:
        frozen += left
    if not any(group["params"] for group in groups):
        raise ValueError("no parameter to train: the model has none, or all are frozen")
    return groups


def check_keys(groups: list[dict[str, Any]], own: Iterable[str]) -> None:
    """ValueError for a key of a group that neither hvdclip nor the optimizer with these keys reads."""
    allowed = dict.fromkeys([*KEYS, *own])
    for group in groups:
        if "params" not in group or any(key not in allowed and key != NAMES for key in group):
            raise ValueError(f"parameter group has keys {', '.join(group)}; allowed: {', '.join(allowed)}")


def has_own_momentum(settings: Any) -> bool:
    """Whether the step is hvdclip's own SGD with a momentum."""
    return isinstance(settings, SgdSettings) and settings.inner is None and settings.momentum > 0


def module_of(model_or_params: Parameters, groups: list[dict[str, Any]], given: nn.Module | None) -> nn.Module | None:
    """The module whose buffers take part, if it is known: the one that has the parameters, or is passed with them.

    TypeError for something else, ValueError for a module that does not have all of the groups' parameters.
    """
    if given is None:
        return model_or_params if isinstance(model_or_params, nn.Module) else None
    if not isinstance(given, nn.Module):
        raise TypeError(f"module is a {type(given).__name__}; allowed: the module that has the parameters")
    its_own = {id(p) for p in given.parameters()}
    entries = (entry for group in groups for entry in group["params"])
    handed = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
    foreign = [tuple(p.shape) for p in handed if id(p) not in its_own]
    if foreign:
        raise ValueError(
            f"module: {len(foreign)} of the parameters to train do not belong to it, the first of shape {foreign[0]}; "
            "allowed: the module that has all of them"
        )
    return given


def _by_dimensions(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    return [group for group in ({"params": weights}, {"params": others, "weight_decay": 0.0}) if group["params"]]


def _checked(group: dict[str, Any], settings: Any, frozen: list[Any]) -> dict[str, Any]:
    """The group with the parameters that are trained, and Python's numbers."""
    if getattr(settings, "inner", None) is None:  # otherwise checked once it is known what the inner optimizer reads
        check_keys([group], SGD_KEYS if has_own_momentum(settings) else ())
    elif "params" not in group:
        check_keys([group], ())
    group = {key: value.item() if isinstance(value, np.generic) else value for key, value in group.items()}
    for key, below in LIMITS.items():
        value = group.get(key, 0)
        if not isinstance(value, float | int) or not 0 <= value < below:
            raise ValueError(f"parameter group {key} is {value!r}; allowed: numbers from 0{_up_to(below)}")
    names = group.pop(NAMES, None)
    return group | {"params": _trainable(group["params"], names, frozen)}


def _up_to(below: float) -> str:
    return "" if below == float("inf") else f" to below {below:g}"


def _trainable(given: Any, names: list[str] | None, frozen: list[Any]) -> list[Any]:
    """The parameters that are not frozen, each once although layers may share it; with their names if they have any."""
    entries: list[Any] = [given] if isinstance(given, Tensor) else list(given)
    if names is not None and len(names) == len(entries):
        entries = list(zip(names, entries, strict=True))
    found: dict[Tensor, Any] = {}
    for entry in entries:
        p = entry[1] if isinstance(entry, tuple) else entry  # named_parameters() gives pairs
        if not isinstance(p, Tensor):
            raise TypeError(f"a parameter is a {type(p).__name__}; allowed: tensors, or pairs of a name and a tensor")
        if is_lazy(p):
            raise ValueError(
                "a parameter of a lazy module has no shape yet: run a batch through the model before "
                "hvdclip.optimizer(...)"
            )
        if p.is_complex():
            raise TypeError(
                f"a parameter of shape {tuple(p.shape)} has dtype {p.dtype}; allowed: real ones; keep "
                "torch.view_as_real(p) as the parameter, and call torch.view_as_complex in forward"
            )
        found.setdefault(p, entry)
    frozen += [entry for p, entry in found.items() if not p.requires_grad]
    return [entry if TAKES_NAMES else p for p, entry in found.items() if p.requires_grad]


def defaults_of(settings: Any) -> dict[str, Any]:
    """The defaults of a group's keys."""
    defaults = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if has_own_momentum(settings):
        defaults |= {key: getattr(settings, key) for key in SGD_KEYS}
    if getattr(settings, "inner", None) is not None and "weight_decay" not in settings.model_fields_set:
        del defaults["weight_decay"]  # the inner optimizer's own default applies
    return defaults


def others_in_words(group: dict[str, Any]) -> list[str]:
    """What a group has besides lr, weight decay and its parameters, for the comparison between ranks."""
    return [f"{key}={value}" for key, value in group.items() if key not in ("params", NAMES, "lr", "weight_decay")]
