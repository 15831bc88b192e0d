"""alpha-NormEC: error compensation for smoothed normalisation.

Shulgin et al.: Smoothed Normalization for Efficient Distributed Private Optimization. 2025.
"""

from typing import Any

from hvdclip.engine import GradientMethod, inverse
from hvdclip.flat import Gradient
from hvdclip.methods.noise import Noise, NoiseSettings
from hvdclip.settings import Finite, setting


class NormEC(GradientMethod):
    name = "norm_ec"
    formula = (
        "m_i = (g_i - v_i)/(alpha + ||g_i - v_i||); v_i += beta m_i; v += beta mean(m_i + noise_i); x -= eta v/||v||"
    )
    paper = "Shulgin et al., 2025"
    message_size = "P every step"
    memory = "3P"
    peak = "5P"

    class Settings(NoiseSettings):
        """eta is lr."""

        alpha: Finite = setting(ge=0, description="alpha, smooths the normalisation", unit="g")
        beta: Finite = setting(gt=0, description="beta, weight of a message in v_i and v")
        server: bool = setting(True, description="normalise the server's step: x -= eta v/||v||; otherwise x -= eta v")

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return settings.noise == 0  # each rank has its own noise

    def set_up(self) -> None:
        self.noise = Noise(self)

    def keeps(self) -> tuple[str, ...]:
        return ("v_i", "v")

    def gradient_step(self, g: Gradient) -> None:
        beta = self.settings.beta
        v_i, v = self.vectors["v_i"], self.vectors["v"]
        m_i = g - v_i
        m_i.mul_(inverse(self.settings.alpha + m_i.norm()))
        m = self.mean(self.noise.added_to(m_i))
        v_i.add_(m_i.mul_(beta))
        v.add_(m.mul_(beta))
        if self.settings.server:
            self.move_normalized(v)  # x -= eta * v/||v||
        else:
            self.move(v)
