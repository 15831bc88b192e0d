"""torchvision, imported where it is used."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def torchvision() -> Any:
    """The package with its datasets, models and transforms."""
    import torchvision
    import torchvision.datasets
    import torchvision.models
    import torchvision.transforms.v2

    return torchvision
