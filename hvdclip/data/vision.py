"""torchvision, imported only when needed: for images from files, CIFAR and torchvision's models."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def torchvision() -> Any:
    """The package with its datasets, models and transforms; ValueError, with what to install, if it is missing."""
    try:
        import torchvision
        import torchvision.datasets
        import torchvision.models
        import torchvision.transforms.v2
    except (ImportError, RuntimeError) as error:  # with a torch that it is not made for it raises either
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"torchvision cannot be imported ({reason}): pip install 'torchvision=={_fitting()}'"
        ) from None
    return torchvision


def why_not() -> str:
    """What to do if torchvision cannot be imported, in one line; empty if it can."""
    try:
        torchvision()
    except ValueError as error:
        return str(error)
    return ""


def _fitting() -> str:
    """The releases that are made for this torch: 0.19 for 2.4, 0.20 for 2.5 and so on."""
    return f"0.{int(torch.__version__.split('.')[1]) + 15}.*"
