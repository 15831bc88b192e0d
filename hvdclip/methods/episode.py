"""EPISODE: one clip decision per round for all ranks, and local steps corrected to the mean gradient.

Crawshaw, Bao, Liu: EPISODE: Episodic Gradient Clipping with Periodic Resampled Corrections for Federated Learning with
Heterogeneous Data. ICLR 2023, Algorithm 1.
"""

import torch
from torch import Tensor

from hvdclip.engine import COMMON, LocalMethod, Sharing, inverse
from hvdclip.flat import Gradient
from hvdclip.flat.scalars import on_host
from hvdclip.methods.control_variates import ControlledSettings, corrected, descend, momentum_of
from hvdclip.settings import ThresholdSettings


def decide(method: LocalMethod) -> None:
    """Whether the round is clipped: one decision for all ranks, because G is the same on all."""
    method.numbers["clipped"] = method.vectors["G"].norm() > method.threshold


def episodic_step(method: LocalMethod, g: Gradient) -> None:
    """x -= eta * u with u = g - G_i + G, or gamma * u/||u|| in a round that is clipped."""
    u, clipped = corrected(method, g, method.vectors["G_i"], method.vectors["G"]), method.numbers["clipped"]
    method.statistics.add("clipped", clipped * (1 - method.skip.flag))
    descend(method, u, torch.where(clipped, method.threshold * inverse(u.norm()), 1.0))


class Episode(LocalMethod):
    name = "episode"
    formula = (
        "G_i = fresh gradient at x_round, G = mean G_i; u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, "
        "else gamma u_i/||u_i||; every I steps x_i = mean x"
    )
    paper = "Crawshaw, Bao, Liu, ICLR 2023, Algorithm 1"
    message_size = "2P every I steps, in two collectives"
    memory = "2P"
    peak = "3P"
    extra_gradients = "1 a round"

    class Settings(ControlledSettings, ThresholdSettings):
        """eta is lr, I is interval."""

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(momentum_of(self.settings))

    def keeps(self) -> dict[str, Sharing]:
        return momentum_of(self.settings) | {"G_i": COMMON, "G": COMMON}  # computed again in each round

    def set_up(self) -> None:
        # G can only be averaged at the averaged x, so it cannot travel with x
        self.resampled = self.message_of(1, name="resampled")
        self.vectors["G"] = self.resampled.vectors[0]
        self.further_messages.append(self.resampled)

    def start_round(self) -> None:
        G_i, G = self.vectors["G_i"], self.vectors["G"]
        G_i.copy_(self.fresh_gradient())
        G.copy_(G_i)
        self.resampled.average()
        # if it is not finite, some rank has failed, and all leave the round out
        self.numbers["usable"] = on_host(G.norm().isfinite().all())
        decide(self)

    def local_step(self, g: Gradient) -> None:
        usable = self.numbers["usable"]
        if isinstance(usable, Tensor):
            self.skip.also(~usable)
        elif not usable:
            self.skip.also(True)
            return
        episodic_step(self, g)
