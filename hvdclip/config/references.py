"""References to functions and classes in modules of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from hvdclip.config.error import ConfigError


def import_function(reference: str) -> Callable[..., Any]:
    """The function that `my.module:name` refers to; ConfigError if there is none."""
    module, _, name = reference.partition(":")
    # as python script.py would find it; a console script's own folder is what stands there otherwise
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of the user's own raises when imported
        raise ConfigError(f"{reference!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"{reference!r} is not a function")
    return function
