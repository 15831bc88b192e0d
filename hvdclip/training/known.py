"""Numbers, some of which are unknown."""

from __future__ import annotations

from collections.abc import Iterable


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    values = known(values)
    return sum(values) / len(values) if values else None


def known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
