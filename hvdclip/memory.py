"""How much memory this process has needed."""

import resource

import torch


def peak_bytes(device: torch.device) -> int:
    """The most so far: of a GPU's memory what tensors have taken, of the host's what the process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux
