"""Clip21 with two momenta, for stochastic gradients and differential privacy.

Islamov et al.: Double Momentum and Error Feedback for Clipping with Fast Rates and Differential Privacy. 2025.
"""

from typing import Any

from hvdclip.engine import GradientMethod
from hvdclip.flat import Gradient
from hvdclip.methods.noise import Noise, NoiseSettings
from hvdclip.settings import Finite, Positive, setting


class Clip21SGD2M(GradientMethod):
    name = "clip21_sgd2m"
    formula = (
        "u_i = (1-b1) u_i + b1 g_i; m_i = clip(u_i - h_i, tau); h_i += b2 m_i; h += b2 mean(m_i + noise_i); x -= eta h"
    )
    paper = "Islamov et al., 2025"
    message_size = "P every step"
    memory = "4P"
    peak = "6P"

    class Settings(NoiseSettings):
        """eta is lr."""

        tau: Positive = setting(description="tau, the largest norm of a message before the noise", unit="g")
        b1: Finite = setting(0.9, gt=0, le=1, description="b1, weight of the new gradient in u_i")
        b2: Finite = setting(0.9, gt=0, le=1, description="b2, weight of a message in h_i and h")

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return settings.noise == 0  # each rank has its own noise

    def set_up(self) -> None:
        self.noise = Noise(self)

    def keeps(self) -> tuple[str, ...]:
        return ("u_i", "h_i", "h")

    def gradient_step(self, g: Gradient) -> None:
        b1, b2 = self.settings.b1, self.settings.b2
        u_i, h_i, h = (self.vectors[name] for name in ("u_i", "h_i", "h"))
        new_u_i = ((1 - b1) * u_i).add_(b1 * g)
        m_i = new_u_i - h_i
        m_i.mul_(self.clip_message(m_i, self.settings.tau))
        m = self.mean(self.noise.added_to(m_i))
        u_i.copy_(new_u_i)
        h_i.add_(m_i.mul_(b2))
        h.add_(m.mul_(b2))
        self.move(h)  # x -= eta * h
