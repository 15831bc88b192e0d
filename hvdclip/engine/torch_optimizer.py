"""torch's Optimizer, without those of its parts that make a start or a step take twice as long."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from hvdclip.torch_private import is_observed, skip_in_compiler

WHY = "an hvdclip optimizer has state that a compiled graph cannot contain"
Function = TypeVar("Function", bound=Callable[..., Any])
# The methods of an optimizer, and of the classes below, that change its state outside of `step`, or read state that
# only Python has.
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

    The wrapper imports the compiler at its first call.
    """
    return inspect.unwrap(getattr(torch.optim.Optimizer, name))


def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
    """torch's wrapper around `step`, used only if there are hooks or a profiler."""
    told = torch.optim.Optimizer.profile_hook_step(func)

    @functools.wraps(func)
    def step(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        return (told if is_observed(self) else func)(self, *args, **kwargs)

    return skip_in_compiler(step, WHY)


def is_horovods(cls: type) -> bool:
    """Whether this is the class of an hvd.DistributedOptimizer: Horovod makes one per optimizer, with its name."""
    return cls.__module__.startswith("horovod.")


def keep_from_compiler(cls: type) -> None:
    """Make torch.compile leave those of ENTRANCES that the class itself defines to Python.

    `step` is wrapped by `profile_hook_step`, when the first optimizer of the class is made.
    """
    for name in ENTRANCES:
        own = cls.__dict__.get(name)
        if isinstance(own, property) and own.fget is not None:
            setattr(cls, name, own.getter(uncompiled(own.fget)))
        elif own is not None:
            setattr(cls, name, uncompiled(own))


def uncompiled(func: Function) -> Function:
    """A function, or a generator's context manager, that torch.compile leaves to Python, with everything that it calls.

    The compiler cannot trace counters, times and messages: a traced optimizer might end a round at every step.
    """
    manages = inspect.isgeneratorfunction(inspect.unwrap(func))

    @functools.wraps(func)
    def apart(*args: Any, **kwargs: Any) -> Any:
        return _Manager(func(*args, **kwargs)) if manages else func(*args, **kwargs)

    return skip_in_compiler(apart, WHY)


class _Manager(AbstractContextManager[Any]):
    """A context manager, as it was made, that is entered and left uncompiled."""

    def __init__(self, inner: AbstractContextManager[Any]):
        self.inner = inner

    @uncompiled
    def __enter__(self) -> Any:
        return self.inner.__enter__()

    @uncompiled
    def __exit__(self, *error: Any) -> Any:
        return self.inner.__exit__(*error)
