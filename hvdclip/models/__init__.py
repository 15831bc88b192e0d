"""Language models by name: `build("awd_lstm", vocabulary=33_278, dropout_hidden=0.2)`.

Every model is called as `model(tokens, state) -> (logits, state, penalty)`: tokens (time, batch) int64, logits (time,
batch, vocabulary), penalty a scalar that the training loss adds. `model.initial_state(batch)` is the state of zeros.
"""

from typing import Any

import torch

from .awd_lstm import AWDLSTM
from .lstm import LSTM

LanguageModel = LSTM | AWDLSTM

MODELS: dict[str, type[LanguageModel]] = {"awd_lstm": AWDLSTM, "lstm": LSTM}


def build(name: str, vocabulary: int, **settings: Any) -> LanguageModel:
    """The model of that name, drawn from torch's random state; ValueError for an unknown name or bad setting."""
    return _model(name)(vocabulary, **settings)


def detach(state: Any) -> Any:
    """The same state, cut from the graph that computed it: nested tuples of tensors."""
    return state.detach() if isinstance(state, torch.Tensor) else tuple(map(detach, state))


def _model(name: str) -> type[LanguageModel]:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(sorted(MODELS))}")
    return MODELS[name]
