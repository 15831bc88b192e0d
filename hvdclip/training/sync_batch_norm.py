"""Batch norm over the samples of all ranks: two collectives per layer and step, one forward and one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.comm import Communicator
from hvdclip.config import NO_BATCH_NORM
from hvdclip.torch_private import BatchNorm, BatchNormOfAnyShape

PURPOSE = "batch_norm"


def synchronised(model: nn.Module, comm: Communicator) -> nn.Module:
    """The model with its batch norms replaced, with the same parameters and buffers; ValueError if it has none."""
    made: dict[nn.Module, SyncBatchNorm] = {}  # a layer with several names stays one layer
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, BatchNorm):
            made.setdefault(module, SyncBatchNorm(module, comm, name or "whole"))
            if name:
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, made[module])
    if not made:
        raise ValueError(NO_BATCH_NORM)
    return made.get(model, model)


class SyncBatchNorm(BatchNormOfAnyShape):
    """Does what nn.BatchNorm1d, 2d and 3d do, with mean and variance of all ranks' samples while it trains."""

    def __init__(self, plain: Any, comm: Communicator, name: str):
        super().__init__(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        for key, parameter in plain.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        for key, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(key, buffer)
        self.comm, self.name = comm, name

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        others = [k for k in range(x.dim()) if k != 1]
        numbers = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(numbers, dim=others, correction=0)
        count = mean.new_tensor([x.numel() / len(mean)])
        everyone = _Gathered.apply(torch.cat([mean, variance, count]), self.comm, self.name)
        means, variances, counts = everyone.split([len(mean), len(mean), 1], dim=1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(dim=0)
        variance = (shares * (variances + (means - mean) ** 2)).sum(dim=0)
        self._keep(mean.detach(), variance.detach(), counts.sum())
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        normal = (numbers - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked.float() if self.momentum is None else torch.tensor(self.momentum)
        self.running_mean.lerp_(mean, weight.to(mean))
        self.running_var.lerp_(variance * count / (count - 1), weight.to(mean))


class _Gathered(torch.autograd.Function):
    """All ranks' rows (N, n) from their own (n,); backward adds up the ranks' gradients of a row."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, comm: Communicator, name: str) -> Tensor:
        ctx.comm, ctx.name = comm, name
        return torch.stack(comm.start_gather(row, PURPOSE, name)()[0])

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Tensor, None, None]:
        total = wanted[0].contiguous()
        ctx.comm.average_([total], PURPOSE, f"{ctx.name}.backward")
        return total[ctx.comm.rank] * ctx.comm.size, None, None
