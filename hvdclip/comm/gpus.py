"""How a GPU's tensors reach Horovod: directly, if it supports GPUs, or through the host's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NO_CUDA = (
    "Horovod was built without CUDA, and would average a GPU's numbers before they are computed; set hvdclip up with a "
    "CUDA toolkit (docs/gpu.md), or use the host's memory: comm.host_staging: true, in your own loop "
    "hvdclip.comm.horovod.Horovod(host_staging=True)"
)


class Direct:
    """Horovod takes the tensors itself, a GPU's tensors only if it was built `with_gpus`; otherwise ValueError."""

    def __init__(self, with_gpus: bool):
        self.with_gpus = with_gpus

    def check(self) -> None:
        """ValueError if the tensors of a GPU cannot be taken."""
        if not self.with_gpus:
            raise ValueError(NO_CUDA)

    def take(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What Horovod gets instead of the tensors."""
        if not self.with_gpus and any(map(is_on_gpu, tensors)):
            raise ValueError(NO_CUDA)
        return tensors

    def give_back(self, sent: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Write what Horovod has made of them into the tensors."""


class ByHost:
    """A GPU's tensors are copied to the host, which waits for them, and copied back when Horovod is done."""

    def check(self) -> None: ...

    def take(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        sent = [_on_host(tensor) if is_on_gpu(tensor) else tensor for tensor in tensors]
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return sent

    def give_back(self, sent: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        for copy, tensor in zip(sent, tensors, strict=True):
            if copy is not tensor:
                tensor.detach().copy_(copy)


def is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _on_host(tensor: Tensor) -> Tensor:
    # a GPU copies into pinned memory at full speed
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=torch.cuda.is_available())
    return pinned.copy_(tensor.detach(), non_blocking=True)
