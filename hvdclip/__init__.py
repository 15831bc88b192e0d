"""hvdclip: every rank takes its own clipped steps, and the ranks average their parameters every I steps."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import hvdclip.torchvision_import  # noqa: F401  (it acts when it is imported)

# where each name is; it is imported, and torch with it, when it is first used: many commands need no torch
_PLACES = {
    "Communicator": "comm",
    "NonFiniteGradient": "errors",
    "algorithms": "methods",
    "optimizer": "methods",
    "register": "methods",
    "simulate": "comm",
}
_PACKAGES = ("comm", "methods")

__all__ = ["Communicator", "NonFiniteGradient", "algorithms", "optimizer", "register", "simulate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"hvdclip.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'hvdclip' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"hvdclip.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, *_PACKAGES})
