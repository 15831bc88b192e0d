"""Models by name: `build("awd_lstm", vocabulary=33_278, dropout_hidden=0.2)`.

A recurrent language model is called as `model(tokens, state) -> (logits, state, penalty)`: tokens (time, batch) int64,
logits (time, batch, vocabulary), penalty a scalar that the training loss adds. `model.initial_state(batch)` is the
state of zeros. A model without a state, a gpt, is called as `model(tokens) -> logits`: tokens (batch, time), logits
(batch, time, vocabulary). An mlp, a cnn, a resnet and torchvision's classifiers (by their names there, such as
resnet50) take labelled samples of a shape. `cleaning` is the model of the bilevel data of that name. A point is the
model of a problem: one vector `model.x`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import torchvisions
from .awd_lstm import AWDLSTM
from .cleaning import Cleaning
from .cnn import CNN
from .gpt import GPT
from .lstm import LSTM
from .mlp import MLP
from .point import Point
from .resnet import ResNet

RECURRENT: dict[str, Callable[..., nn.Module]] = {"awd_lstm": AWDLSTM, "lstm": LSTM}
STATELESS: dict[str, Callable[..., nn.Module]] = {"gpt": GPT}
LANGUAGE: dict[str, Callable[..., nn.Module]] = RECURRENT | STATELESS
SAMPLES: dict[str, Callable[..., nn.Module]] = {"cnn": CNN, "mlp": MLP, "resnet": ResNet}
BILEVEL: dict[str, Callable[..., nn.Module]] = {"cleaning": Cleaning}
MODELS: dict[str, Callable[..., nn.Module]] = LANGUAGE | SAMPLES | BILEVEL | {"point": Point}


def build(name: str, *arguments: Any, **settings: Any) -> nn.Module:
    """The model with that name, drawn from torch's random state; ValueError for an unknown name or bad setting."""
    made_by = find(name)
    if made_by is None:
        raise ValueError(f"unknown model {name!r}; allowed: {', '.join(sorted(MODELS))}, or torchvision's classifiers")
    return made_by(*arguments, **settings)


def find(name: str) -> Callable[..., nn.Module] | None:
    """The function that makes a model; None for an unknown name, ValueError if only torchvision may have it."""
    if name in MODELS:
        return MODELS[name]
    return torchvisions.builder(name) if name in torchvisions.names() else None


def try_on(model: nn.Module, name: str, shape: tuple[int, ...], batch: int) -> None:
    """ValueError, in one line, if a model cannot train on so many samples of a shape; on no device."""
    try:
        copy.deepcopy(model).to("meta").train()(torch.empty(batch, *shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"model.name is {name!r}; allowed: a model that can train on {batch} samples of shape {shape} at a time "
            f"({why})"
        ) from None


def takes_samples(name: str) -> bool:
    """Whether the model with that name classifies labelled samples; ValueError as from `find`."""
    return name in SAMPLES or (name not in MODELS and find(name) is not None)


def detach(state: Any) -> Any:
    """The same state, cut off from the graph that computed it: nested tuples of tensors."""
    return state.detach() if isinstance(state, torch.Tensor) else tuple(map(detach, state))
