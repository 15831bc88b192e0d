"""torch's Optimizer, without what would take a start or a step as long as all the rest of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from hvdclip.torch_private import is_observed, skip_in_compiler

WHY = "what an hvdclip optimizer keeps is no part of a graph"
Function = TypeVar("Function", bound=Callable[..., Any])
# What changes an optimizer's state beside `step`, or reads what only Python knows; of a method and the classes below.
ENTRANCES = (
    "__init__",
    "record",
    "synchronize",
    "averaged",
    "join",
    "last_round",
    "requests",
    "zero_grad",
    "add_param_group",
    "state_dict",
    "load_state_dict",
    "load_common_state",
    "broadcast_state",
)


def plain(name: str) -> Callable[..., Any]:
    """A method of torch's Optimizer without the wrapper that keeps torch's compiler from tracing it.

    The wrapper does so by importing the compiler, at the first call.
    """
    return inspect.unwrap(getattr(torch.optim.Optimizer, name))


def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
    """torch's wrapper around `step`, gone through only where there are hooks or a profiler to tell."""
    told = torch.optim.Optimizer.profile_hook_step(func)

    @functools.wraps(func)
    def step(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        return (told if is_observed(self) else func)(self, *args, **kwargs)

    return skip_in_compiler(step, WHY)


def is_horovods(cls: type) -> bool:
    """Whether it is the class of an hvd.DistributedOptimizer: Horovod makes one for each, named after what it wraps."""
    return cls.__module__.startswith("horovod.")


def keep_from_compiler(cls: type) -> None:
    """Have torch.compile leave to Python those of ENTRANCES that the class itself defines.

    `step` is wrapped by `profile_hook_step`, when the first optimizer of the class is made.
    """
    for name in ENTRANCES:
        own = cls.__dict__.get(name)
        if isinstance(own, property) and own.fget is not None:
            setattr(cls, name, own.getter(uncompiled(own.fget)))
        elif own is not None:
            setattr(cls, name, uncompiled(own))


def uncompiled(func: Function) -> Function:
    """A function, or a generator's context manager, that torch.compile leaves to Python with all that it calls.

    The compiler cannot trace counts, times and messages: a traced optimizer may end a round at every step.
    """
    manages = inspect.isgeneratorfunction(inspect.unwrap(func))

    @functools.wraps(func)
    def apart(*args: Any, **kwargs: Any) -> Any:
        return _Manager(func(*args, **kwargs)) if manages else func(*args, **kwargs)

    return skip_in_compiler(apart, WHY)


class _Manager(AbstractContextManager[Any]):
    """A context manager that is entered and left uncompiled, as it was made."""

    def __init__(self, inner: AbstractContextManager[Any]):
        self.inner = inner

    @uncompiled
    def __enter__(self) -> Any:
        return self.inner.__enter__()

    @uncompiled
    def __exit__(self, *error: Any) -> Any:
        return self.inner.__exit__(*error)
