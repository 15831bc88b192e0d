"""hvdclip: every rank takes clipped steps of its own, and the ranks average their parameters every I steps."""

from __future__ import annotations

from typing import Any

from hvdclip.comm import Communicator, simulate
from hvdclip.methods import METHODS, NonFiniteGradient, optimizer

__all__ = ["Communicator", "NonFiniteGradient", "algorithms", "optimizer", "simulate"]
__version__ = "0.1.0"


def algorithms() -> list[dict[str, Any]]:
    """The algorithms by name, with formula, paper and message size (P is the number of trainable floats)."""
    return [
        {"name": m.name, "formula": m.formula, "paper": m.paper, "message": m.message_size} for m in METHODS.values()
    ]
