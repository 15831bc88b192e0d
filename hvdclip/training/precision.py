"""The numbers in which a model computes; its parameters, which methods step and average, stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hvdclip.methods import Method
from hvdclip.models.awd_lstm import WeightDropLSTM

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, or autocast to bf16 or fp16; a loss in fp16 is scaled, lest small gradients vanish.

    Source: Micikevicius et al. (2018), with float32 as master weights.
    """

    def __init__(self, name: str, device: torch.device):
        self.name, self.device, self.half = name, device.type, HALF.get(name)
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    def check(self, model: nn.Module) -> None:
        """ValueError for an LSTM in numbers in which this processor does not compute one.

        torch's library for CPUs then speaks of a primitive that it could not create, at the first step.
        """
        has_lstm = any(isinstance(module, nn.LSTM | WeightDropLSTM) for module in model.modules())
        if self.half is None or self.device != "cpu" or not has_lstm:
            return
        try:
            with self.cast(), torch.enable_grad():
                nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
        except RuntimeError:
            raise ValueError(
                f"train.precision is {self.name!r}, in which torch {torch.__version__} computes no LSTM on this "
                "processor; allowed here: fp32, or a GPU"
            ) from None

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
