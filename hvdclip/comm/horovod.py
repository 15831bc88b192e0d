"""Real ranks, by Horovod; the only importer of horovod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from hvdclip.comm.base import Network


class Horovod(Network):
    """The ranks of an initialised Horovod; raises RuntimeError before hvd.init()."""

    def __init__(self) -> None:
        super().__init__()
        if not hvd.is_initialized():
            raise RuntimeError("Horovod is not initialised: call horovod.torch.init() first")
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def _average_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        # Names that repeat from round to round let Horovod answer from its cache instead of negotiating anew.
        handles = [
            hvd.allreduce_async_(tensor, name=f"hvdclip.{purpose}.{i}", op=hvd.Average)
            for i, tensor in enumerate(tensors)
        ]
        for handle in handles:
            hvd.synchronize(handle)

    def _broadcast_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        # as bytes, since Horovod knows neither bfloat16 nor every integer type
        for i, tensor in enumerate(tensors):
            sent = tensor.contiguous().flatten().view(torch.uint8)
            hvd.broadcast_(sent, root_rank=0, name=f"hvdclip.{purpose}.broadcast.{i}")
            tensor.copy_(sent.view(tensor.dtype).view(tensor.shape))

    def _gather(self, value: Any, purpose: str) -> list[Any]:
        return hvd.allgather_object(value, name=f"hvdclip.{purpose}.gather")


def initialise() -> Horovod:
    """Start Horovod in this process, if need be, and return its communicator."""
    if not hvd.is_initialized():
        hvd.init()
    return Horovod()
