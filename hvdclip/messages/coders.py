"""Few bytes for a float: half precision, and 8-bit integers with a scale for each block."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BLOCK = 1024  # entries that share a scale; every row holds a whole number of blocks
LARGEST = 127


class Coder(Protocol):
    """Codes rows of float32, (k, width), as rows of bytes, (k, bytes(width))."""

    def bytes(self, width: int) -> int: ...

    def encode(self, rows: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


class Half:
    """float16 or bfloat16; what is too large for float16 becomes its largest number."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def bytes(self, width: int) -> int:
        return 2 * width

    def encode(self, rows: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return rows.clamp(-largest, largest).to(self.dtype).view(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.contiguous().view(self.dtype).float()


class Int8:
    """Integers from -127 to 127 times their block's scale, rounded up or down at random, so that the mean is exact."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def bytes(self, width: int) -> int:
        return width + 4 * (width // BLOCK)

    def encode(self, rows: Tensor) -> Tensor:
        blocks = rows.view(len(rows), -1, BLOCK)
        scales = blocks.abs().amax(dim=-1, keepdim=True) / LARGEST
        scaled = blocks / scales.where(scales > 0, 1.0)
        draws = torch.rand(blocks.shape, dtype=torch.float32, generator=self.generator, device=rows.device)
        codes = scaled.add_(draws).floor_().clamp_(-LARGEST, LARGEST).to(torch.int8)
        return torch.cat([codes.flatten(1).view(torch.uint8), scales.flatten(1).view(torch.uint8)], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        width = codes.shape[1] * BLOCK // (BLOCK + 4)
        integers = codes[:, :width].contiguous().view(torch.int8).view(len(codes), -1, BLOCK)
        scales = codes[:, width:].contiguous().view(torch.float32)
        return (integers * scales[..., None]).flatten(1)
