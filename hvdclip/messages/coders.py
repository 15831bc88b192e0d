"""Few bytes per float: half precision, and integers of 8 or 4 bits with a scale for each block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 1024  # every row has a whole number of such runs of entries
PIECE = 128 * BLOCK  # entries that a CPU codes at a time: what they pass through stays in its caches


class Coder(Protocol):
    """Codes rows of float32, (k, width), as rows of bytes, (k, bytes(width)), and decodes them again."""

    def bytes(self, width: int) -> int: ...

    def encode(self, rows: Tensor, codes: Tensor) -> None: ...

    def decode(self, codes: Tensor, rows: Tensor) -> None: ...


def pieces(rows: Tensor) -> Iterator[tuple[slice, int, int]]:
    """(rows, first column, end of the columns) of what is coded at a time, in the order of memory."""
    width = rows.shape[1]
    if rows.device.type != "cpu":
        yield slice(None), 0, width
        return
    for row in range(len(rows)):
        for start in range(0, width, PIECE):
            yield slice(row, row + 1), start, min(start + PIECE, width)


class Half:
    """float16 or bfloat16; values too large for float16 become its largest number."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def bytes(self, width: int) -> int:
        return 2 * width

    def encode(self, rows: Tensor, codes: Tensor) -> None:
        largest = torch.finfo(self.dtype).max
        for row, start, end in pieces(rows):
            halves = rows[row, start:end].clamp(-largest, largest).to(self.dtype)
            codes[row, 2 * start : 2 * end] = halves.view(torch.uint8)

    def decode(self, codes: Tensor, rows: Tensor) -> None:
        for row, start, end in pieces(rows):
            rows[row, start:end] = codes[row, 2 * start : 2 * end].contiguous().view(self.dtype)


class Blocks:
    """Integers from -largest to largest times their block's scale, rounded up or down at random: unbiased.

    A block of `size` entries has a float32 as its scale; whole blocks make BLOCK.
    """

    def __init__(self, generator: torch.Generator, largest: int, size: int):
        self.generator, self.largest, self.size = generator, largest, size

    def bytes(self, width: int) -> int:
        """The bytes of the scales."""
        return 4 * (width // self.size)

    def of(self, start: int, end: int) -> slice:
        """Which bytes of the scales belong to these columns."""
        return slice(self.bytes(start), self.bytes(end))

    def round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The integers, as floats, (k, width), and the bytes of the scales."""
        blocks = rows.view(len(rows), -1, self.size)
        scales = blocks.abs().amax(dim=-1, keepdim=True) / self.largest
        integers = self._rounded_(blocks / scales.where(scales > 0, 1.0)).clamp_(-self.largest, self.largest)
        return integers.flatten(1), scales.flatten(1).view(torch.uint8)

    def scale_(self, rows: Tensor, scales: Tensor) -> None:
        """Rows of integers become the values that they encode."""
        rows.view(len(rows), -1, self.size).mul_(scales.contiguous().view(torch.float32)[..., None])

    def _rounded_(self, scaled: Tensor) -> Tensor:
        """Round up or down at random, four entries per random number: odd multiples of 2^-17, float32's step at 127."""
        words = torch.empty(scaled.numel() // 4, dtype=torch.int64, device=scaled.device)
        draws = words.random_(-(2**63), None, generator=self.generator).view(torch.int16).view(scaled.shape)
        return scaled.add_(draws.float().add_(2**15 + 0.5), alpha=2**-16).floor_()


class Int8:
    """Blocks of 1024 integers from -127 to 127: 8.03 bits an entry."""

    def __init__(self, generator: torch.Generator):
        self.blocks = Blocks(generator, 127, BLOCK)

    def bytes(self, width: int) -> int:
        return width + self.blocks.bytes(width)

    def encode(self, rows: Tensor, codes: Tensor) -> None:
        all_scales = codes[:, rows.shape[1] :]
        for row, start, end in pieces(rows):
            integers, scales = self.blocks.round(rows[row, start:end])
            codes[row, start:end] = integers.to(torch.int8).view(torch.uint8)
            all_scales[row, self.blocks.of(start, end)] = scales

    def decode(self, codes: Tensor, rows: Tensor) -> None:
        all_scales = codes[:, rows.shape[1] :]
        for row, start, end in pieces(rows):
            piece = rows[row, start:end].copy_(codes[row, start:end].view(torch.int8))
            self.blocks.scale_(piece, all_scales[row, self.blocks.of(start, end)])


class Int4:
    """Blocks of 128 integers from -7 to 7, two to a byte: 4.25 bits an entry.

    With so few steps a block's largest entry decides how coarse they are: for normal entries it is 2.8 deviations with
    128 entries and 3.4 with 1024. 64 would make it 2.6, for a quarter of a bit more per entry.
    """

    def __init__(self, generator: torch.Generator):
        self.blocks = Blocks(generator, 7, 128)

    def bytes(self, width: int) -> int:
        return width // 2 + self.blocks.bytes(width)

    def encode(self, rows: Tensor, codes: Tensor) -> None:
        all_scales = codes[:, rows.shape[1] // 2 :]
        for row, start, end in pieces(rows):
            integers, scales = self.blocks.round(rows[row, start:end])
            nibbles = integers.add_(8).to(torch.uint8)
            codes[row, start // 2 : end // 2] = nibbles[:, ::2] | nibbles[:, 1::2] << 4
            all_scales[row, self.blocks.of(start, end)] = scales

    def decode(self, codes: Tensor, rows: Tensor) -> None:
        all_scales = codes[:, rows.shape[1] // 2 :]
        for row, start, end in pieces(rows):
            piece, pairs = rows[row, start:end], codes[row, start // 2 : end // 2]
            piece[:, ::2] = pairs & 15
            piece[:, 1::2] = pairs >> 4
            self.blocks.scale_(piece.sub_(8), all_scales[row, self.blocks.of(start, end)])
