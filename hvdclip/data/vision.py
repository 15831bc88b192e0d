"""torchvision, also beside a torch without CUDA."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.library import Library


@cache
def torchvision() -> Any:
    """The package with its datasets, models and transforms.

    Its wheel is built for CUDA: without that its C++ operators cannot be loaded, and the import fails on the schemas of
    two of them, which nothing here uses.
    """
    if torch.version.cuda is None:
        schemas = Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
    import torchvision.datasets
    import torchvision.models
    import torchvision.transforms.v2

    return torchvision
