"""How a GPU's tensors reach Horovod: as they are, where it knows GPUs, or through the host's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NO_CUDA = (
    "Horovod was built without CUDA, and would average numbers of a GPU before they are there; set hvdclip up where a "
    "CUDA toolkit is (docs/gpu.md), or go by the host's memory: comm.host_staging: true, in a loop of your own "
    "hvdclip.comm.horovod.Horovod(host_staging=True)"
)


class Direct:
    """Horovod takes the tensors itself, those of a GPU where it was built `with_gpus`; else they are a ValueError."""

    def __init__(self, with_gpus: bool):
        self.with_gpus = with_gpus

    def check(self) -> None:
        """ValueError where the tensors of a GPU cannot be taken."""
        if not self.with_gpus:
            raise ValueError(NO_CUDA)

    def take(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What Horovod is handed in place of the tensors."""
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
    # into pinned memory a GPU copies at its full speed
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=torch.cuda.is_available())
    return pinned.copy_(tensor.detach(), non_blocking=True)
