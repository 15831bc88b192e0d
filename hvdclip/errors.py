"""The errors that end a command with one line, and what an error says in it."""

from __future__ import annotations


class ConfigError(ValueError):
    """The mistakes of a configuration, one per line."""


class NonFiniteGradient(FloatingPointError):
    """A gradient was not finite on some rank; raised on every rank, naming rank and step."""


def message_of(error: BaseException) -> str:
    """An error's message, with the file if it names one."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
