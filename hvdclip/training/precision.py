"""The precision in which a model computes; its parameters, which methods step and average, do not change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hvdclip.methods import Method
from hvdclip.models.awd_lstm import WeightDropLSTM

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, or autocast to bf16 or fp16; a loss in fp16 is scaled, so that small gradients do not vanish.

    Source: Micikevicius et al. (2018), with float32 as master weights.
    """

    def __init__(self, name: str, device: torch.device):
        self.name, self.device, self.half = name, device.type, HALF.get(name)
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    def check(self, model: nn.Module) -> None:
        """ValueError for an LSTM in a precision in which this processor does not compute one.

        Otherwise torch's CPU library fails at the first step, because it could not create a primitive.
        """
        has_lstm = any(isinstance(module, nn.LSTM | WeightDropLSTM) for module in model.modules())
        if self.half is None or self.device != "cpu" or not has_lstm:
            return
        try:
            with self.cast(), torch.enable_grad():
                nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
        except RuntimeError:
            raise ValueError(
                f"train.precision is {self.name!r}, but torch {torch.__version__} cannot compute an LSTM in it on this "
                "processor; allowed here: fp32, or a GPU"
            ) from None

    def cast(self) -> AbstractContextManager[None]:
        """Inside, a forward pass computes in this precision."""
        return nullcontext() if self.half is None else torch.autocast(self.device, self.half)

    def backward(self, objective: Tensor) -> None:
        self.scaler.scale(objective).backward()

    def step(self, optimizer: Method, closure: Callable[..., Tensor]) -> None:
        """One step; its clipping sees the gradients without their scale."""
        if not self.scaler.is_enabled():
            optimizer.step(closure)
            return
        optimizer.record(loss=closure())
        self.scaler.step(optimizer)
        self.scaler.update()
