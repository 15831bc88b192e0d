"""torchvision's classifiers by their names, without trained weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from hvdclip.data.vision import torchvision

from .pixels import check_images


@cache
def names() -> frozenset[str]:
    models = torchvision().models
    return frozenset(models.list_models(module=models))


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that makes the model for images of a shape and a number of classes."""

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        """Images (batch, *shape) to logits (batch, classes); ValueError if the samples are not colour images."""
        _, height, width = check_images(shape, channels=3)
        try:
            return torchvision().models.get_model(name, num_classes=classes, **_settings(name, height, width))
        except AssertionError as error:  # from torch._assert
            raise ValueError(
                f"model.name is {name!r}; allowed: a model that takes images of {shape} ({error})"
            ) from None

    return build


def _settings(name: str, height: int, width: int) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):  # one output, not one for each of several losses
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": height}
    return {"input_size": (height, width)} if name == "maxvit_t" else {}
