"""The numbers in which a model computes; its parameters, which methods step and average, stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hvdclip.methods import Method

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, or autocast to bf16 or fp16; a loss in fp16 is scaled, lest small gradients vanish.

    Source: Micikevicius et al. (2018), with float32 as master weights.
    """

    def __init__(self, name: str, device: torch.device):
        self.device, self.half = device.type, HALF.get(name)
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    def cast(self) -> AbstractContextManager[None]:
        """Inside, a forward pass computes in these numbers."""
        return nullcontext() if self.half is None else torch.autocast(self.device, self.half)

    def backward(self, objective: Tensor) -> None:
        self.scaler.scale(objective).backward()

    def step(self, optimizer: Method, closure: Callable[..., Tensor]) -> None:
        """One step, whose clip sees the gradients without their scale."""
        if not self.scaler.is_enabled():
            optimizer.step(closure)
            return
        optimizer.record(loss=closure())
        self.scaler.step(optimizer)
        self.scaler.update()
