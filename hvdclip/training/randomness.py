"""The states of Python's, NumPy's and torch's random numbers on this rank."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_from(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def torch_state() -> State:
    """The state of torch alone: on the CPU, and on this rank's CUDA device if CUDA is used."""
    state = {"torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def get_state() -> State:
    """The state of all three, as tensors and numbers."""
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    python, numpy = (version, torch.tensor(words), gauss), (torch.from_numpy(np.asarray(keys, np.int64)), *rest)
    return torch_state() | {"python": python, "numpy": numpy}


def set_state(state: State) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
    if "numpy" in state:
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))


@contextmanager
def continued_from(state: State) -> Iterator[None]:
    """Inside, random numbers start from that state; afterwards they continue where they were."""
    present = get_state() if "python" in state else torch_state()
    set_state(state)
    try:
        yield
    finally:
        set_state(present)


def get_generators(owners: Sequence[Any]) -> list[torch.Tensor | None]:
    """The states of the torch generators of these objects; None for an object that has no generator."""
    generators = (getattr(owner, "generator", None) for owner in owners)
    return [generator.get_state() if isinstance(generator, torch.Generator) else None for generator in generators]


def set_generators(owners: Sequence[Any], states: Sequence[torch.Tensor | None]) -> None:
    for owner, state in zip(owners, states, strict=True):
        if state is not None:
            owner.generator.set_state(state)
