"""EPISODE++: EPISODE with a sample of the ranks in each round, and corrections from the rounds before.

Crawshaw, Bao, Liu: Federated Learning with Client Subsampling, Data Heterogeneity, and Unbounded Smoothness: A New
Algorithm and Lower Bounds. NeurIPS 2023.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from hvdclip.flat import Gradient
from hvdclip.methods.control_variates import ControlledSettings
from hvdclip.methods.episode import Episodic
from hvdclip.methods.settings import ThresholdSettings, setting


@lru_cache(maxsize=8)  # asked for at every step
def _draw(seed: int, round: int, ranks: int, participants: int) -> tuple[int, ...]:
    drawn = np.random.default_rng((seed, round)).choice(ranks, participants, replace=False)
    return tuple(sorted(drawn.tolist()))


class EpisodePP(Episodic):
    name = "episode_pp"
    formula = (
        "S of N ranks step: u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, else gamma u_i/||u_i||; every I "
        "steps G_i = mean of the round's g_i, G += sum_S dG_i/N, x = mean_S x_i"
    )
    paper = "Crawshaw, Bao, Liu, NeurIPS 2023"
    message_size = "2P every I steps"
    memory = "3P"
    extra_gradients = "I before the first step"
    reads_alike = False

    class Settings(ControlledSettings, ThresholdSettings):
        """eta is lr, I is interval, S is participants."""

        participants: int = setting(
            ge=1, description="S, ranks that take part in a round, drawn without replacement", unit="ranks"
        )
        sampling_seed: int = setting(0, ge=0, description="a round's ranks are drawn from (sampling_seed, round)")

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    def __init__(self, model_or_params: Any, settings: Any, comm: Any):
        if settings.participants > comm.size:
            raise ValueError(
                f"participants is {settings.participants}; allowed: 1 to the number of ranks, which is {comm.size}"
            )
        super().__init__(model_or_params, settings, comm)
        if self.weight != 1.0:
            raise ValueError("weight: episode_pp takes the plain mean of the ranks drawn; allowed are equal weights")

    def participants(self, round: int) -> list[int]:
        """The ranks drawn for a round (from 0), the same on all ranks."""
        return list(_draw(self.settings.sampling_seed, round, self.comm.size, self.settings.participants))

    @property
    def takes_part(self) -> bool:
        return self.comm.rank in self.participants(self.rounds)

    @property
    def drawn(self) -> float:
        return self.settings.participants / self.comm.size

    def keeps(self) -> tuple[str, ...]:
        return (*super().keeps(), "change")

    def travels(self) -> tuple[str, ...]:
        return ("change",)

    def start_round(self) -> None:
        if self.rounds == 0:
            self._first_corrections()
        self.vectors["change"].zero_()
        self.numbers["taken"] = 0
        self.decide()

    @property
    def host_skips(self) -> bool:
        return True  # the mean of the round's gradients takes finite ones only

    def local_step(self, g: Gradient) -> None:
        super().local_step(g)
        self.numbers["taken"] += 1
        self.vectors["change"].lerp_(g, 1 / self.numbers["taken"])  # the mean so far

    def end_round(self) -> None:
        if self.numbers["taken"]:
            G_i, change = self.vectors["G_i"], self.vectors["change"]
            new = change.clone()
            change.sub_(G_i)
            G_i.copy_(new)

    def after_average(self) -> None:
        self.vectors["G"].add_(self.vectors["change"])  # G += sum_S dG_i/N

    def _first_corrections(self) -> None:
        """G_i = mean of I gradients at x_0, on all ranks; G = mean G_i."""
        G_i = self.vectors["G_i"]
        for _ in range(self.interval):
            g = self.fresh_gradient()
            if g.norm().isfinite():
                G_i.add_(1 / self.interval * g)
        mean = self.message_of(1)
        mean.vectors[0].copy_(G_i)
        mean.average("setup")
        self.vectors["G"].copy_(mean.vectors[0])
