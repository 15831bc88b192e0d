"""Steps of length eta along the gradient, or along its momentum.

Hazan, Levy, Shalev-Shwartz, NeurIPS 2015; Cutkosky, Mehta, ICML 2020 (with momentum).
"""

from hvdclip.engine import LocalMethod, inverse
from hvdclip.flat import Gradient, Vector
from hvdclip.settings import AveragingSettings, Finite, setting


class NormalizedSGD(LocalMethod):
    name = "normalized_sgd"
    formula = "m_i = beta m_i + g_i; x_i -= eta m_i/||m_i||; every I steps x_i = mean x"
    paper = "Hazan, Levy, Shalev-Shwartz, NeurIPS 2015; Cutkosky, Mehta, ICML 2020"
    message_size = "P every I steps"
    memory = "0"

    class Settings(AveragingSettings):
        """eta is lr, I is interval."""

        momentum: Finite = setting(0.0, ge=0, lt=1, description="beta, momentum taken before the norm")

    @property
    def changes(self) -> tuple[str, ...]:
        return self.keeps()

    def keeps(self) -> tuple[str, ...]:
        return ("m",) if self.settings.momentum else ()

    def local_step(self, g: Gradient) -> None:
        m: Vector = g
        if self.settings.momentum:
            m = self.vectors["m"].mul_(self.settings.momentum).add_(g)
        self.move(m, inverse(m.norm()))  # x -= eta * m/||m||
