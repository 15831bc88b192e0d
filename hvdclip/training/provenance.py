"""What identifies the origin of a result: a hash of the model, and the versions that made it."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

import hvdclip
from hvdclip.project import PACKED


def sha256(model: nn.Module) -> str:
    """SHA-256 over the bytes of parameters and buffers in state_dict order."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def code_sha256() -> str:
    """SHA-256 over hvdclip's own source: its version stays the same between two changes of the code; read once."""
    folder, digest = Path(hvdclip.__file__).parent, hashlib.sha256()
    # a wheel packs more beside it than a checkout has there
    for file in sorted(file for file in folder.rglob("*.py") if PACKED not in file.parents):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Python's, torch's, Horovod's and hvdclip's versions; without those that are not installed; read once."""
    found = {"python": platform.python_version()}
    for package in ("hvdclip", "torch", "horovod", "mpi4py", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
