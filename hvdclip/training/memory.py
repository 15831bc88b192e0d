"""How much memory this process has needed, and how it reuses the memory that each step frees."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Options of glibc's mallopt: how much free memory stays at the end of the heap, and how large its blocks can be.
TRIM, MMAP = -1, -3
KEPT, LARGEST_BLOCK = 2**30, 2**30
LARGEST_BLOCK_OF_OLD = 2**25  # an older glibc refuses more
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed() -> None:
    """Reuse the host's memory that a step frees in the next step, unless the environment configures glibc.

    By default glibc returns large blocks to the kernel, which fills each page with zeros when it is used again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    told = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(v in os.environ for v in MALLOC_VARIABLES)
    if mallopt is not None and not told and (mallopt(MMAP, LARGEST_BLOCK) or mallopt(MMAP, LARGEST_BLOCK_OF_OLD)):
        mallopt(TRIM, KEPT)


def peak_bytes(device: torch.device) -> int:
    """The peak so far: for a GPU the memory of tensors, for the host the memory of the process."""
    if device.type == "cuda":
        import torch  # which keep_freed does without

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux
