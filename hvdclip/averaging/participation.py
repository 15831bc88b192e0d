"""Who takes part in a round: all ranks, or some that are drawn."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hvdclip.messages import Statistics


class Everyone:
    """All ranks, in every round; inside join(), each rank until it leaves."""

    def __init__(self) -> None:
        self.joined = False
        self._last: int | None = None  # the last round in which this rank took a step, once it has left

    @property
    def everyone(self) -> bool:
        """Whether all ranks take part in all rounds."""
        return not self.joined

    def join(self) -> None:
        """From now on ranks may leave."""
        self.joined, self._last = True, None

    def stay(self) -> None:
        """From now on all ranks take all steps again."""
        self.joined, self._last = False, None

    def leave(self, round: int, steps_in_round: int) -> None:
        """This rank takes no more steps; it leaves after so many steps of a round (from 0)."""
        self._last = round if steps_in_round else round - 1

    def includes(self, rank: int, round: int) -> bool:
        """Whether this rank takes steps in a round."""
        return self._last is None

    def counts(self, rank: int, round: int) -> bool:
        """Whether this rank's x counts in the average that ends the round."""
        return self._last is None or round <= self._last

    def share(self, statistics: Statistics) -> float:
        """The share of the ranks that counted in the last message."""
        return statistics.present if self.joined else 1.0


class Sample:
    """S of N ranks, drawn without replacement from (seed, round); the same on all ranks.

    Raises ValueError if S is larger than the number of ranks.
    """

    everyone = joined = False

    def __init__(self, seed: int, ranks: int, participants: int):
        if participants > ranks:
            raise ValueError(f"participants is {participants}; allowed: 1 to the number of ranks, which is {ranks}")
        self.seed, self.ranks, self.participants = seed, ranks, participants

    def of_round(self, round: int) -> tuple[int, ...]:
        """The ranks drawn for a round (from 0)."""
        return _draw(self.seed, round, self.ranks, self.participants)

    def includes(self, rank: int, round: int) -> bool:
        """Whether this rank takes steps in a round."""
        return rank in self.of_round(round)

    def counts(self, rank: int, round: int) -> bool:
        """Whether this rank's x counts in the average that ends the round."""
        return self.includes(rank, round)

    def share(self, statistics: Statistics) -> float:
        """The share of the ranks that counts."""
        return self.participants / self.ranks


Participation = Everyone | Sample


@lru_cache(maxsize=8)  # called at every step
def _draw(seed: int, round: int, ranks: int, participants: int) -> tuple[int, ...]:
    drawn = np.random.default_rng((seed, round)).choice(ranks, participants, replace=False)
    return tuple(sorted(drawn.tolist()))
