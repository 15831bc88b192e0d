"""torch's Optimizer, without the import of torch's compiler, which takes as long as all else of a rank's start."""

from __future__ import annotations

import inspect

import torch


class TorchOptimizer(torch.optim.Optimizer):
    """What torch keeps its compiler from tracing it does so by importing the compiler, at the first call of any."""


for _name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
    setattr(TorchOptimizer, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))
