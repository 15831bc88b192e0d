"""EPISODE++: EPISODE with a sample of the ranks in each round, and corrections from the previous rounds.

Crawshaw, Bao, Liu: Federated Learning with Client Subsampling, Data Heterogeneity, and Unbounded Smoothness: A New
Algorithm and Lower Bounds. NeurIPS 2023.
"""

from typing import Any

from hvdclip.averaging import Participation, Sample
from hvdclip.engine import OWN, TRAVELS, LocalMethod, Sharing
from hvdclip.flat import Gradient
from hvdclip.methods.control_variates import ControlledSettings, momentum_of
from hvdclip.methods.episode import decide, episodic_step
from hvdclip.settings import ThresholdSettings, setting


class EpisodePP(LocalMethod):
    name = "episode_pp"
    formula = (
        "S of N ranks step: u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, else gamma u_i/||u_i||; every I "
        "steps G_i = mean of the round's g_i, G += sum_S dG_i/N, x = mean_S x_i"
    )
    paper = "Crawshaw, Bao, Liu, NeurIPS 2023"
    message_size = "2P every I steps"
    memory = "3P"
    peak = "5P"
    extra_gradients = "I before the first step"

    class Settings(ControlledSettings, ThresholdSettings):
        """eta is lr, I is interval, S is participants."""

        participants: int = setting(
            ge=1, description="S, ranks that take part in a round, drawn without replacement", unit="ranks"
        )
        sampling_seed: int = setting(0, ge=0, description="a round's ranks are drawn from (sampling_seed, round)")

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def changes(self) -> tuple[str, ...]:
        return (*momentum_of(self.settings), "change")

    def who_takes_part(self) -> Participation:
        return Sample(self.settings.sampling_seed, self.comm.size, self.settings.participants)

    def keeps(self) -> dict[str, Sharing]:
        return momentum_of(self.settings) | {"G_i": OWN, "G": OWN, "change": TRAVELS}

    def set_up(self) -> None:
        if self.weight != 1.0:
            raise ValueError("weight: episode_pp takes the plain mean of the ranks drawn; allowed: equal weights")

    def start_round(self) -> None:
        if self.rounds == 0:
            self._first_corrections()
        self.vectors["change"].zero_()
        self.numbers["taken"] = 0
        decide(self)

    def local_step(self, g: Gradient) -> None:
        episodic_step(self, g)
        self.numbers["taken"] += self.skip.taken
        self.vectors["change"].lerp_(g, 1 / self.numbers["taken"])  # the mean so far

    def end_round(self) -> None:
        G_i, change, taken = self.vectors["G_i"], self.vectors["change"], self.numbers["taken"] > 0
        new = change.clone()
        change.sub_(G_i).zero_unless(taken)
        G_i.copy_where(taken, new)

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
