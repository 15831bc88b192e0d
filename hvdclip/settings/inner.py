"""The setting `inner`: one torch optimizer, or one for matrices and another for all other parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

MATRICES, OTHERS = "matrices", "others"
KIND = "inner"  # the key of a parameter group that says which of the two optimizers moves it
MUON_SINCE = "2.9"


class ByShape:
    """The optimizers of matrices and of others; ValueError if torch cannot make one from its settings."""

    def __init__(self, matrices: Any, others: Any):
        self.parts = {MATRICES: _made(MATRICES, matrices), OTHERS: _made(OTHERS, others)}
        # compared between ranks and with saved states
        self.__qualname__ = " and ".join(map(name_of, self.parts.values()))

    def __repr__(self) -> str:
        return self.__qualname__

    def keyword(self, kind: str, key: str, default: Any = None) -> Any:
        """A setting that was given to one of them."""
        return getattr(self.parts[kind], "keywords", {}).get(key, default)


def optimizer_of(inner: Any) -> Any:
    """What makes the optimizer, or the optimizer itself; ValueError for what cannot be inside."""
    if isinstance(inner, dict) and {MATRICES, OTHERS} & inner.keys():
        if inner.keys() != {MATRICES, OTHERS}:
            raise ValueError(f"allowed are exactly the keys {MATRICES} and {OTHERS}")
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
            raise ValueError(f"Muon only with torch {MUON_SINCE} or later; this is torch {torch.__version__}")
        if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
            raise ValueError("allowed are the optimizers of torch.optim, for example AdamW")
        return partial(found, **kwargs)
    if inner is None or callable(inner):
        return inner
    raise ValueError("allowed are a torch optimizer's class, name or instance")


def _made(kind: str, given: Any) -> Any:
    """A factory that has once made an optimizer, for a matrix."""
    if given is None or isinstance(given, torch.optim.Optimizer):
        what = "none" if given is None else f"an instance of {type(given).__name__}"
        raise TypeError(f"inner's {kind} is {what}; allowed are a torch optimizer's class or name")
    try:
        factory = _factory(given)
        keywords = {"lr": 1.0} | getattr(factory, "keywords", {})
        optimizer = factory([nn.Parameter(torch.zeros(2, 2))], lr=keywords["lr"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"a valid optimizer for {kind}; {given!r}: {error}") from None
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(f"an optimizer for {kind} that needs one gradient a step, not {given!r}")
    return factory


def name_of(factory: Any) -> str:
    """The name of the optimizer's class."""
    made = getattr(factory, "func", factory)
    return getattr(made, "__qualname__", type(made).__qualname__)
