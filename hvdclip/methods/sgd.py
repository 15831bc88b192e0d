"""The step that the SGD family shares: weight decay, momentum and the move, in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from hvdclip.flat import HALVES


def sgd_step_(
    x: list[Tensor],
    g: list[Tensor],
    buffers: list[Tensor],
    *,
    step_size: Tensor,
    weight_decay: float,
    rule: tuple[float, float, bool],
    skip: Tensor,
) -> None:
    """d = g + weight_decay*x; buf = momentum*buf + (1-dampening)*d; x -= step_size * (buf, or d + momentum*buf).

    Contiguous tensors of one dtype; `buffers` is empty without momentum, `rule` is (momentum, dampening, nesterov).
    Nothing changes where `skip` (a float) is 1. torch's own fused kernel takes the step size and the skip flag from the
    device, so that a GPU is never waited for.
    """
    if step_size.dim() or (x[0].dtype in HALVES and x[0].device.type == "cpu"):
        _plain_step_(x, g, buffers, step_size, weight_decay, rule, skip)
        return
    momentum, dampening, nesterov = rule
    torch._fused_sgd_(
        x,
        g,
        buffers,
        lr=step_size if step_size.device.type == "cpu" else step_size.float(),
        weight_decay=weight_decay,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
        found_inf=skip,
    )


def _plain_step_(x, g, buffers, step_size, weight_decay, rule, skip) -> None:
    # Stacked ranks have a step size each. And torch 2.13's fused SGD for float16 and bfloat16 on the CPU gives wrong
    # results from 16 entries on.
    if skip.any():
        return
    d = sgd_direction(x, g, buffers, weight_decay, *rule)
    for p, direction in zip(x, d, strict=True):
        exact = torch.promote_types(p.dtype, torch.float32)
        p.copy_(p.to(exact) - step_size.to(exact) * direction.to(exact))


def sgd_direction(
    x: list[Tensor],
    g: list[Tensor],
    buffers: list[Tensor],
    weight_decay: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> list[Tensor]:
    """The direction of sgd_step_ as tensors of its own; the momentum buffers move on."""
    d = list(torch._foreach_add(g, x, alpha=weight_decay)) if weight_decay else g
    if not buffers:
        return d
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, d, alpha=1 - dampening)
    return list(torch._foreach_add(d, buffers, alpha=momentum)) if nesterov else buffers
