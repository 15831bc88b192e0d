"""torch's Optimizer, without what would take a start or a step as long as all the rest of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch.optim import optimizer as torchs

try:
    # private, of torch 2.7 and later; without them torch.compiler.disable does the same, and a start takes longer
    from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
except ImportError:
    set_code_exec_strategy = None  # type: ignore[assignment]

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
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        hooks = hooks or torchs._global_optimizer_pre_hooks or torchs._global_optimizer_post_hooks
        return (told if hooks or torch.autograd._profiler_enabled() else func)(self, *args, **kwargs)

    return _skip(step)


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

    Counts, times and messages are no part of a graph: traced, an optimizer may end a round at every step. It is
    torch.compiler.disable without the import of the compiler, which takes seconds.
    """
    manages = inspect.isgeneratorfunction(inspect.unwrap(func))

    @functools.wraps(func)
    def apart(*args: Any, **kwargs: Any) -> Any:
        return _Manager(func(*args, **kwargs)) if manages else func(*args, **kwargs)

    return _skip(apart)


def _skip(func: Any) -> Any:
    """The function itself, whose code the compiler leaves alone from now on, in all that share it."""
    if set_code_exec_strategy is None:
        return torch.compiler.disable(func)
    # for a call out of compiled code, then for one that is being traced; the attributes are of torch 2.0 and later
    set_code_exec_strategy(func.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))
    func._torchdynamo_disable = True
    func._torchdynamo_disable_msg = "what an hvdclip optimizer keeps is no part of a graph"
    return func


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
