"""All private names of torch that hvdclip uses: what each is for, and what is done in a release that lacks it.

Those without an alternative exist in all releases of torch from 2.4 on; comments name later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors as flatten
from torch._utils import _unflatten_dense_tensors as unflatten
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.optim import optimizer as torchs

# BatchNorm: the base class of batch norms with any number of dimensions
__all__ = ["BatchNorm", "flatten", "unflatten"]

Class = TypeVar("Class", bound=type)

RELEASE = tuple(map(int, torch.__version__.split(".")[:2]))

# One operation on many tensors, which on a GPU is one kernel. The dtype of foreach_norm came last, with 2.4.
foreach_add, foreach_add_ = torch._foreach_add, torch._foreach_add_
foreach_sub, foreach_sub_ = torch._foreach_sub, torch._foreach_sub_
foreach_mul, foreach_mul_ = torch._foreach_mul, torch._foreach_mul_
foreach_div, foreach_div_ = torch._foreach_div, torch._foreach_div_
foreach_pow, foreach_norm = torch._foreach_pow, torch._foreach_norm
foreach_copy_, foreach_zero_ = torch._foreach_copy_, torch._foreach_zero_
foreach_lerp_, foreach_maximum_ = torch._foreach_lerp_, torch._foreach_maximum_

# The kernel under torch.optim.SGD(fused=True); on CPUs since 2.4.
fused_sgd_ = torch._fused_sgd_

# Whether an optimizer takes pairs of a name and a parameter; before that, groups do not show the names.
TAKES_NAMES = RELEASE >= (2, 6)


class BatchNormOfAnyShape(BatchNorm):
    """A batch norm that does not check shapes."""

    def _check_input_dim(self, input: Tensor) -> None: ...


def skip_in_compiler(func: Any, why: str) -> Any:
    """The function itself; from now on torch.compile leaves it to Python, with everything that shares its code.

    This is torch.compiler.disable without the import of the compiler, which takes seconds; before torch 2.7 it is that.
    """
    frames: Any = torch._C._dynamo.eval_frame
    if not hasattr(frames, "set_code_exec_strategy"):
        disabled: Any = torch.compiler.disable(func)
        del disabled._torchdynamo_orig_callable  # torch.compile would call it instead, and a method without self
        return disabled
    skip = frames._FrameAction.SKIP
    # first for a call from compiled code, then for one that is being traced
    frames.set_code_exec_strategy(func.__code__, frames._FrameExecStrategy(skip, skip))
    func._torchdynamo_disable = True
    func._torchdynamo_disable_msg = why
    return func


def is_made(module: nn.Module) -> bool:
    """Whether nn.Module.__init__ has run; before that, a module has no parts."""
    return "_modules" in module.__dict__


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own buffers by name; faster than get_buffer."""
    return module._buffers


def writes_to(tensor: Tensor) -> int:
    """How often something has written the tensor, or a view of it."""
    return tensor._version


def handles_overflows(cls: Class) -> Class:
    """Make GradScaler always call step() of these optimizers, and leave it to them what to do at an overflow."""
    cls._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    return cls


def is_observed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether there are hooks around its steps, or a profiler that records them."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(
        hooks
        or torchs._global_optimizer_pre_hooks
        or torchs._global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()
    )


def hooks_around(optimizer: torch.optim.Optimizer, of: str) -> tuple[list[Callable[..., Any]], ...]:
    """The hooks before and those after `of`, which is "state_dict" or "load_state_dict"."""
    before, after = (getattr(optimizer, f"_optimizer_{of}_{when}_hooks") for when in ("pre", "post"))
    return list(before.values()), list(after.values())


def hooks_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's attributes that contain its hooks."""
    return {name: value for name, value in attributes.items() if name.startswith("_optimizer_")}


@contextmanager
def without_hooks(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, torch's own functions call none of the optimizer's hooks."""
    hooks = hooks_in(optimizer.__dict__)
    optimizer.__dict__.update({name: type(value)() for name, value in hooks.items()})
    try:
        yield
    finally:
        optimizer.__dict__.update(hooks)
