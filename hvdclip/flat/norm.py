"""The L2 norm of many entries, exact to 1e-6.

On a CPU, torch adds up the squares of a tensor in a few float32 numbers, one after another; for 24 M entries the result
is off by 1.4e-3. So a long tensor is taken as rows, and the norms of rows and tensors are added in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.linalg import vector_norm

from hvdclip.torch_private import foreach_norm

ROW = 512
LONG = 2 * ROW
PIECE = 1 << 16  # entries that become float64 at a time
# Squares of float32 entries lose their last digits below 1e-38: below this norm of up to 1e9 entries that may matter.
LEAST = 1e-11


def norm_of(by_dtype: Iterable[list[Tensor]], device: torch.device) -> Tensor:
    """The L2 norm over all tensors together, given by dtype: a 0-dim tensor, in the widest of their exact dtypes."""
    lists = list(by_dtype)
    if device.type != "cpu":
        return _on_device(lists)
    pieces = [norms for tensors in lists for norms in _norms(tensors)]
    together = torch.cat(pieces) if len(pieces) > 1 else pieces[0]  # of the widest dtype
    norm = _norm_of(together)
    if not LEAST < norm.item() < math.inf:  # squares are too small or too large for float32
        norm = _norm_of(torch.stack([_slow_norm(tensor) for tensors in lists for tensor in tensors]))
    return norm.to(together.dtype)


def exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which entries of this one are summed: 300 squared overflows float16."""
    return torch.promote_types(dtype, torch.float32)


def _on_device(lists: list[list[Tensor]]) -> Tensor:
    """A device sums in a tree, which is exact; and reading the sum would wait for it."""
    norms = [torch.stack(foreach_norm(tensors, 2, dtype=exact(tensors[0].dtype))) for tensors in lists]
    return vector_norm(torch.cat(norms))


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Norms of pieces of the tensors of one dtype, each (number of pieces,)."""
    dtype = exact(tensors[0].dtype)
    norms, short = [], []
    for tensor in tensors:
        size = tensor.numel()
        if size < LONG:
            short.append(tensor)
        elif size % ROW == 0 and tensor.is_contiguous():  # the usual case, in the fewest calls: small models feel them
            norms.append(vector_norm(tensor.view(-1, ROW), dim=1, dtype=dtype))
        else:
            entries, whole = _entries(tensor), size // ROW * ROW
            norms.append(vector_norm(entries[:whole].view(-1, ROW), dim=1, dtype=dtype))
            short.append(entries[whole:])
    return [*norms, torch.stack(foreach_norm(short, 2, dtype=dtype))] if short else norms


def _entries(tensor: Tensor) -> Tensor:
    """All entries in the order of memory, as a view if they have no gaps."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _slow_norm(tensor: Tensor) -> Tensor:
    return _norm_of(torch.stack([_norm_of(piece) for piece in _entries(tensor).split(PIECE)]))


def _norm_of(numbers: Tensor) -> Tensor:
    return vector_norm(numbers, dtype=torch.float64)
