"""torch's Optimizer, without what would take a start or a step as long as all the rest of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torchs


class TorchOptimizer(torch.optim.Optimizer):
    """What torch keeps its compiler from tracing it does so by importing the compiler, at the first call of any."""

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """torch's wrapper around `step`, gone through only where there are hooks or a profiler to tell."""
        told = torch.optim.Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: TorchOptimizer, *args: Any, **kwargs: Any) -> Any:
            hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
            hooks = hooks or torchs._global_optimizer_pre_hooks or torchs._global_optimizer_post_hooks
            return (told if hooks or torch.autograd._profiler_enabled() else func)(self, *args, **kwargs)

        return step


for _name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
    setattr(TorchOptimizer, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))
