"""The step that the SGD family shares: weight decay, momentum and the move, in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from hvdclip.flat import HALVES, Scalar
from hvdclip.torch_private import foreach_add, foreach_add_, foreach_mul_, fused_sgd_


def sgd_step_(
    x: list[Tensor],
    g: list[Tensor],
    buffers: list[Tensor],
    *,
    step_size: Scalar,
    weight_decay: float,
    rule: tuple[float, float, bool, Scalar],
    skip: Tensor,
) -> None:
    """d = g + weight_decay*x; buf = momentum*buf + (1-dampening)*d; x -= step_size * (buf, or d + momentum*buf).

    Contiguous tensors of one dtype; `buffers` is empty without momentum. `rule` is (momentum, dampening, nesterov, s);
    buf is multiplied by s before x moves. Nothing changes if `skip` (a float) is 1. torch's own fused kernel takes
    the step size and the skip flag from a device, so that the host never waits for a GPU.
    """
    on_cpu = x[0].device.type == "cpu"
    if on_cpu and (skip.any() if skip.dim() else skip):  # for one rank, reading is faster than any()
        return
    of_each = isinstance(step_size, Tensor) and step_size.dim() > 0  # for stacked ranks
    if of_each or (on_cpu and x[0].dtype in HALVES):
        _plain_step_(x, g, buffers, step_size, weight_decay, rule)
        return
    momentum, dampening, nesterov, s = rule
    step_size = step_size * s if isinstance(s, Tensor) else step_size
    fused_sgd_(
        x,
        g,
        buffers,
        lr=step_size.float() if isinstance(step_size, Tensor) and step_size.is_cuda else step_size,
        weight_decay=weight_decay,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
        found_inf=None if on_cpu else skip,
    )
    if isinstance(s, Tensor):
        foreach_mul_(buffers, s)


def _plain_step_(x, g, buffers, step_size, weight_decay, rule) -> None:
    # Each stacked rank has its own step size. And torch 2.13's fused SGD for float16 and bfloat16 on the CPU gives
    # wrong results from 16 entries on.
    d = sgd_direction(x, g, buffers, weight_decay, *rule)
    for p, direction in zip(x, d, strict=True):
        exact = torch.promote_types(p.dtype, torch.float32)
        factor = step_size.to(exact) if isinstance(step_size, Tensor) else step_size
        p.copy_(p.to(exact) - factor * direction.to(exact))


def sgd_direction(
    x: list[Tensor],
    g: list[Tensor],
    buffers: list[Tensor],
    weight_decay: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    s: Scalar = 1.0,
) -> list[Tensor]:
    """The direction of sgd_step_ as new tensors; the momentum buffers are updated."""
    d = list(foreach_add(g, x, alpha=weight_decay)) if weight_decay else g
    if not buffers:
        return d
    foreach_mul_(buffers, momentum)
    foreach_add_(buffers, d, alpha=1 - dampening)
    if isinstance(s, Tensor):
        foreach_mul_(buffers, s)
    return list(foreach_add(d, buffers, alpha=momentum)) if nesterov else buffers
