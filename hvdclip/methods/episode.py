"""EPISODE: one clip decision a round for all ranks, and local steps corrected to the mean gradient.

Crawshaw, Bao, Liu: EPISODE: Episodic Gradient Clipping with Periodic Resampled Corrections for Federated Learning with
Heterogeneous Data. ICLR 2023, Algorithm 1.
"""

import torch

from hvdclip.flat import Gradient, Vector
from hvdclip.messages import Message
from hvdclip.methods.control_variates import ControlledSettings, Corrected
from hvdclip.methods.settings import ThresholdSettings
from hvdclip.methods.steps import inverse


class Episodic(Corrected):
    """Steps along u = g - G_i + G, of length gamma in a whole round if ||G|| > gamma/eta at its start."""

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def host_skips(self) -> bool:
        return self.settings.momentum > 0  # else a local step changes x only

    def keeps(self) -> tuple[str, ...]:
        return (*super().keeps(), "G_i", "G")

    def decide(self) -> None:
        """Once a round, for all ranks, since G is the same on all."""
        self.numbers["clipped"] = self.vectors["G"].norm() > self.threshold

    def local_step(self, g: Gradient) -> None:
        u, clipped = self.corrected(g, self.vectors["G_i"], self.vectors["G"]), self.numbers["clipped"]
        self.statistics.add("clipped", clipped * (1 - self._skip))
        # x -= gamma * u/||u|| if the round is clipped, else eta * u
        self.descend(u, torch.where(clipped, self.threshold * inverse(u.norm()), 1.0))


class Episode(Episodic):
    name = "episode"
    formula = (
        "G_i = fresh gradient at x_round, G = mean G_i; u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, "
        "else gamma u_i/||u_i||; every I steps x_i = mean x"
    )
    paper = "Crawshaw, Bao, Liu, ICLR 2023, Algorithm 1"
    message_size = "2P every I steps, in two collectives"
    memory = "2P"
    extra_gradients = "1 a round"

    class Settings(ControlledSettings, ThresholdSettings):
        """eta is lr, I is interval."""

    def _lay_out(self) -> tuple[Message, Vector]:
        # G can only be averaged at the averaged x, so it cannot travel with x
        self.resampled = self.message_of(1, name="resampled")
        self.vectors["G"] = self.resampled.vectors[0]
        return super()._lay_out()

    def alike(self) -> tuple[str, ...]:
        return ("G_i", "G")

    def start_round(self) -> None:
        self.messages = [self.message, self.resampled]
        G_i, G = self.vectors["G_i"], self.vectors["G"]
        G_i.copy_(self.fresh_gradient())
        G.copy_(G_i)
        self.resampled.average()
        # where it is not finite some rank has failed, and all leave the round out
        self.numbers["usable"] = bool(G.norm().isfinite().all())
        self.decide()

    def local_step(self, g: Gradient) -> None:
        if self.numbers["usable"]:
            super().local_step(g)
        else:
            self._skip = torch.ones_like(self._skip)
