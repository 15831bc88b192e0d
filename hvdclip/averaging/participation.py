"""Who takes part in a round: every rank, or some that are drawn."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class Everyone:
    """All ranks, in every round."""

    everyone = True
    share = 1.0

    def includes(self, rank: int, round: int) -> bool:
        return True


class Sample:
    """S of N ranks, drawn without replacement from (seed, round); the same on all ranks.

    Raises ValueError for more participants than ranks.
    """

    everyone = False

    def __init__(self, seed: int, ranks: int, participants: int):
        if participants > ranks:
            raise ValueError(f"participants is {participants}; allowed: 1 to the number of ranks, which is {ranks}")
        self.seed, self.ranks, self.participants = seed, ranks, participants
        self.share = participants / ranks

    def of_round(self, round: int) -> tuple[int, ...]:
        """The ranks drawn for a round (from 0)."""
        return _draw(self.seed, round, self.ranks, self.participants)

    def includes(self, rank: int, round: int) -> bool:
        return rank in self.of_round(round)


Participation = Everyone | Sample


@lru_cache(maxsize=8)  # asked for at every step
def _draw(seed: int, round: int, ranks: int, participants: int) -> tuple[int, ...]:
    drawn = np.random.default_rng((seed, round)).choice(ranks, participants, replace=False)
    return tuple(sorted(drawn.tolist()))
