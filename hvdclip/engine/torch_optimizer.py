"""torch's Optimizer, without what would take a start or a step as long as all the rest of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torchs


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

    return step
