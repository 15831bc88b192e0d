"""References to functions and classes in the user's own modules."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvdclip.errors import ConfigError

BESIDE = "# modules of one's own are looked for in: "


def look_beside(file: Path) -> None:
    """Let import_function find modules in the folder of a YAML file, and in the one that its comment names."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        text = ""
    named = [line.removeprefix(BESIDE) for line in text.splitlines() if line.startswith(BESIDE)]
    here = _working_folder()
    for folder in (*named, str(file.absolute().parent)):
        if folder not in sys.path:
            sys.path.insert(sys.path.index(here) + 1, folder)


def _working_folder() -> str:
    """On sys.path, as for `python script.py`; otherwise the console script's own folder is there."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def import_function(reference: str) -> Callable[..., Any]:
    """The function that `my.module:name` refers to; ConfigError if there is none."""
    module, _, name = reference.partition(":")
    _working_folder()
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own module raises when imported
        raise ConfigError(f"{reference!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"{reference!r} is not a function")
    return function
