"""Files of tensors: never seen half-written, and nothing in them is ever executed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from hvdclip.checkpoints import durable


def save(file: Path, tensors: Any) -> durable.Checksum:
    """Write tensors, numbers and words; OSError names the file."""
    return durable.write(file, partial(torch.save, tensors))


def load(file: Path) -> Any:
    """The contents of the file, in the host's memory."""
    return torch.load(file, weights_only=True, map_location="cpu")
