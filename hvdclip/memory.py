"""How much memory this process has needed, and that it keeps what each step frees."""

import ctypes
import os
import resource

import torch

# Of glibc's mallopt; 32 MiB is the most that older ones take as the second.
TRIM, MMAP = -1, -3
LARGE, LARGEST_OF_OLD = 2**30, 2**25
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed() -> None:
    """Let the host's memory that a step frees be the next step's, unless the environment says how glibc is to do it.

    By default glibc hands large blocks back to the kernel, which fills each page with zeros when it is touched again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    told = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(v in os.environ for v in MALLOC_VARIABLES)
    if mallopt is not None and not told and (mallopt(MMAP, LARGE) or mallopt(MMAP, LARGEST_OF_OLD)):
        mallopt(TRIM, LARGE)


def peak_bytes(device: torch.device) -> int:
    """The most so far: of a GPU's memory what tensors have taken, of the host's what the process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux
