"""Local gradient clipping with an average every I steps.

Liu, Zhuang, Lei, Liao: A Communication-Efficient Distributed Gradient Clipping Algorithm for Training Deep Neural
Networks. NeurIPS 2022, Algorithm 1.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import ClippedSgdSettings, LocalSgdSettings


class CELGC(LocalMethod):
    name = "celgc"
    formula = "x_i -= min(eta, gamma/||g_i||) d_i; every I steps x_i = mean x"
    paper = "Liu, Zhuang, Lei, Liao, NeurIPS 2022, Algorithm 1"
    message_size = "P every I steps"
    memory = "0"

    class Settings(LocalSgdSettings, ClippedSgdSettings):
        """eta is lr, I is interval."""

    def local_step(self, g: Gradient) -> None:
        d = self.sgd.direction(g)
        self.sgd.descend(d, self.clip(d.vector))  # x -= min(eta, gamma/||g||) * d
