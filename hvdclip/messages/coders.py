"""Few bytes for a float: half precision, and 8-bit integers with a scale for each block."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BLOCK = 1024  # entries that share a scale; every row holds a whole number of blocks
LARGEST = 127


class Coder(Protocol):
    """Codes rows of float32, (k, width), as rows of bytes, (k, bytes(width)), and writes rows that such bytes say."""

    def bytes(self, width: int) -> int: ...

    def encode(self, rows: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor, rows: Tensor) -> None: ...


class Half:
    """float16 or bfloat16; what is too large for float16 becomes its largest number."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def bytes(self, width: int) -> int:
        return 2 * width

    def encode(self, rows: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return rows.clamp(-largest, largest).to(self.dtype).view(torch.uint8)

    def decode(self, codes: Tensor, rows: Tensor) -> None:
        rows.copy_(codes.contiguous().view(self.dtype))


class Int8:
    """Integers from -127 to 127 times their block's scale, rounded up or down at random, so that the mean is right."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def bytes(self, width: int) -> int:
        return width + 4 * (width // BLOCK)

    def encode(self, rows: Tensor) -> Tensor:
        blocks = rows.view(len(rows), -1, BLOCK)
        scales = blocks.abs().amax(dim=-1, keepdim=True) / LARGEST
        scaled = blocks / scales.where(scales > 0, 1.0)
        codes = self._rounded_(scaled).clamp_(-LARGEST, LARGEST).to(torch.int8)
        return torch.cat([codes.flatten(1).view(torch.uint8), scales.flatten(1).view(torch.uint8)], dim=1)

    def decode(self, codes: Tensor, rows: Tensor) -> None:
        width = rows.shape[1]
        blocks = rows.view(len(rows), -1, BLOCK)
        blocks.copy_(codes[:, :width].view(torch.int8).view(blocks.shape))
        blocks.mul_(codes[:, width:].contiguous().view(torch.float32)[..., None])

    def _rounded_(self, scaled: Tensor) -> Tensor:
        """Round up or down by draws, four to a random number: odd multiples of 2^-17, float32's step at 127."""
        words = torch.empty(scaled.numel() // 4, dtype=torch.int64, device=scaled.device)
        draws = words.random_(-(2**63), None, generator=self.generator).view(torch.int16).view(scaled.shape)
        return scaled.add_(draws.float().add_(2**15 + 0.5), alpha=2**-16).floor_()
