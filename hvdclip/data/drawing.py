"""Separate random numbers from a seed, for what is drawn in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Inside, torch draws on the CPU from that seed; afterwards it continues as before. Other devices do not change."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also set a GPU's
    try:
        yield
    finally:
        torch.set_rng_state(before)
