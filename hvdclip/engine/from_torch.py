"""Loads a state_dict of one of torch's optimizers in the middle of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hvdclip.engine import saved
from hvdclip.engine.groups import SGD_KEYS, has_own_momentum
from hvdclip.settings import SgdSettings

if TYPE_CHECKING:
    from hvdclip.engine.method import Method


def take_over(method: Method, state: dict[str, Any]) -> None:
    """Continue from a state of such an optimizer; ValueError if the method's step is not that optimizer's step.

    The groups' settings and the momentum or moments are taken; the counts of steps and rounds do not change.
    """
    _check(method, state)
    method.wait()
    keys = ("lr", "weight_decay", "initial_lr", "param_names", "params", *SGD_KEYS)
    inner: Any = method.optimizers.get("inner")
    if inner is None:
        state = state | {"param_groups": [{k: v for k, v in g.items() if k in keys} for g in state["param_groups"]]}
    with torch.no_grad():
        saved.load_groups(method, state)
        saved.load_momentum(method, state["state"])


def _check(method: Method, state: dict[str, Any]) -> None:
    inner, groups = method.optimizers.get("inner"), state.get("param_groups")
    is_sgd = isinstance(method.settings, SgdSettings)
    if not groups or "state" not in state or not is_sgd:
        raise ValueError(f"the state is of method None, this optimizer's method is {method.name!r}")
    wanted = SGD_KEYS if inner is None else inner.defaults  # type: ignore[attr-defined]
    name = "SGD" if inner is None else type(inner).__name__
    if lacks := [key for key in wanted if any(key not in group for group in groups)]:
        raise ValueError(
            f"the state is of method None, and its groups lack {', '.join(lacks)}; allowed: a state of {method.name}, "
            f"or of torch.optim.{name}"
        )
    if inner is None:
        _check_sgd(method, groups)


def _check_sgd(method: Method, groups: list[dict[str, Any]]) -> None:
    if any(group.get("maximize") for group in groups):
        raise ValueError("the state is of an SGD that maximizes; allowed: maximize False")
    if any(group["momentum"] for group in groups) and not has_own_momentum(method.settings):
        raise ValueError(
            f"the state is of an SGD with momentum {groups[0]['momentum']}, this optimizer has none: pass momentum to "
            "hvdclip.optimizer"
        )
