"""The few numbers of a step: floats if they are on the host anyway, tensors if the host must not wait for a device.

On small tensors, each operation on a tensor of one number costs a step time.
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

Scalar = float | Tensor
AnyScalar = TypeVar("AnyScalar", float, Tensor, Scalar)


def on_host(number: Tensor) -> Scalar:
    """A float for one number on the CPU; the tensor itself on a device, or for the numbers of stacked ranks."""
    return number if number.dim() or number.device.type != "cpu" else number.item()


def is_bad(number: Scalar) -> bool | Tensor:
    """Whether it is not finite."""
    return ~number.isfinite() if isinstance(number, Tensor) else not math.isfinite(number)


def at_most(number: AnyScalar, largest: float) -> AnyScalar:
    return number.clamp(max=largest) if isinstance(number, Tensor) else min(number, largest)


def finite_or_zero(number: Scalar) -> Scalar:
    if isinstance(number, Tensor):
        return number.float().nan_to_num(0.0, 0.0, 0.0)
    return number if math.isfinite(number) else 0.0
