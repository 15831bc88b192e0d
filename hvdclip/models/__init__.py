"""Models by name: `build("awd_lstm", vocabulary=33_278, dropout_hidden=0.2)`.

A language model is called as `model(tokens, state) -> (logits, state, penalty)`: tokens (time, batch) int64, logits
(time, batch, vocabulary), penalty a scalar that the training loss adds. `model.initial_state(batch)` is the state of
zeros. An mlp, a cnn and a resnet classify labelled rows. A point is the model of a problem: one vector `model.x`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .awd_lstm import AWDLSTM
from .cnn import CNN
from .lstm import LSTM
from .mlp import MLP
from .point import Point
from .resnet import ResNet

LANGUAGE: dict[str, Callable[..., nn.Module]] = {"awd_lstm": AWDLSTM, "lstm": LSTM}
ROWS: dict[str, Callable[..., nn.Module]] = {"cnn": CNN, "mlp": MLP, "resnet": ResNet}
MODELS: dict[str, Callable[..., nn.Module]] = LANGUAGE | ROWS | {"point": Point}


def build(name: str, *arguments: Any, **settings: Any) -> nn.Module:
    """The model of that name, drawn from torch's random state; ValueError for an unknown name or bad setting."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(sorted(MODELS))}")
    return MODELS[name](*arguments, **settings)


def detach(state: Any) -> Any:
    """The same state, cut from the graph that computed it: nested tuples of tensors."""
    return state.detach() if isinstance(state, torch.Tensor) else tuple(map(detach, state))
