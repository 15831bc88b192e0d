"""hvdclip: every rank takes clipped steps of its own, and the ranks average their parameters every I steps."""

from __future__ import annotations

from typing import Any

import hvdclip.torchvision_import  # noqa: F401  (it acts when it is imported)
from hvdclip.comm import Communicator, simulate
from hvdclip.methods import METHODS, NonFiniteGradient, optimizer, register

__all__ = ["Communicator", "NonFiniteGradient", "algorithms", "optimizer", "register", "simulate"]
__version__ = "0.1.0"


def algorithms() -> list[dict[str, Any]]:
    """The algorithms by name, with formula, paper and costs (P is the number of trainable floats).

    `message` is what a rank hands to collectives, `memory` what it holds beside x and its gradient (momentum, drift
    measurement and outer step left out), both in floats.
    """
    return [
        {
            "name": m.name,
            "formula": m.formula,
            "paper": m.paper,
            "message": m.message_size,
            "memory": m.memory,
            "extra gradients": m.extra_gradients,
        }
        for m in METHODS.values()
    ]
