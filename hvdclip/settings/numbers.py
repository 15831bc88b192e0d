"""Kinds of numbers in settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
