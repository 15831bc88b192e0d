"""The setting `inner`: one of torch's optimizers, or one for matrices and another for all other parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

MATRICES, OTHERS = "matrices", "others"
KIND = "inner"  # the key of a parameter group that says which of the two moves it
MUON_SINCE = "2.9"


class ByShape:
    """The optimizers that move matrices and others; ValueError for one that torch does not make of its settings."""

    def __init__(self, matrices: Any, others: Any):
        self.parts = {MATRICES: _made(MATRICES, matrices), OTHERS: _made(OTHERS, others)}
        self.__qualname__ = " and ".join(map(name_of, self.parts.values()))  # what ranks and states compare

    def __repr__(self) -> str:
        return self.__qualname__

    def keyword(self, kind: str, key: str, default: Any = None) -> Any:
        """A setting that one of them was given."""
        return getattr(self.parts[kind], "keywords", {}).get(key, default)


def optimizer_of(inner: Any) -> Any:
    """What makes the optimizer, or it itself; ValueError for what cannot be inside."""
    if isinstance(inner, dict) and {MATRICES, OTHERS} & inner.keys():
        if inner.keys() != {MATRICES, OTHERS}:
            raise ValueError(f"allowed are both of {MATRICES} and {OTHERS}, and nothing beside them")
        return ByShape(**inner)
    if isinstance(inner, ByShape | torch.optim.Optimizer):
        return inner
    return _factory(inner)


def _factory(inner: Any) -> Any:
    """An optimizer's class, or a function of parameters and lr."""
    name, kwargs = inner, {}
    if isinstance(inner, dict):
        kwargs = dict(inner)
        name = kwargs.pop("name", None)
    if isinstance(name, str):
        found = getattr(torch.optim, name, None)
        if found is None and name == "Muon":
            raise ValueError(f"allowed with torch {MUON_SINCE} or later; this is torch {torch.__version__}")
        if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
            raise ValueError("allowed are the optimizers of torch.optim, say AdamW")
        return partial(found, **kwargs)
    if inner is None or callable(inner):
        return inner
    raise ValueError("allowed are a torch optimizer's class, name or instance")


def _made(kind: str, given: Any) -> Any:
    """A factory that has made an optimizer once, of a matrix."""
    if given is None or isinstance(given, torch.optim.Optimizer):
        what = "none" if given is None else f"an instance of {type(given).__name__}"
        raise TypeError(f"inner's {kind} is {what}; allowed are a torch optimizer's class or name")
    try:
        factory = _factory(given)
        keywords = {"lr": 1.0} | getattr(factory, "keywords", {})
        optimizer = factory([nn.Parameter(torch.zeros(2, 2))], lr=keywords["lr"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind} as told, but {given!r}: {error}") from None
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(f"{kind} of one gradient a step, not {given!r}")
    return factory


def name_of(factory: Any) -> str:
    """That of the optimizer's class."""
    made = getattr(factory, "func", factory)
    return getattr(made, "__qualname__", type(made).__qualname__)
