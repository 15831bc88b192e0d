"""Random numbers of a seed's own, for what is drawn in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Inside, torch draws on the CPU by that seed; afterwards it goes on as before. Other devices notice nothing."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would set a GPU's too
    try:
        yield
    finally:
        torch.set_rng_state(before)
