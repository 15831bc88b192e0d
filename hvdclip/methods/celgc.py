"""Local gradient clipping with an average every I steps.

Liu, Zhuang, Lei, Liao: A Communication-Efficient Distributed Gradient Clipping Algorithm for Training Deep Neural
Networks. NeurIPS 2022, Algorithm 1.
"""

from hvdclip.flat import Gradient
from hvdclip.methods.averaging_settings import LocalSgdSettings
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.settings import ClippedSgdSettings
from hvdclip.methods.sgd_family import SgdFamily


class CELGC(SgdFamily, LocalMethod):
    name = "celgc"
    formula = "x_i -= min(eta, gamma/||g_i||) d_i; every I steps x_i = mean x"
    paper = "Liu, Zhuang, Lei, Liao, NeurIPS 2022, Algorithm 1"
    message_size = "P every I steps"
    memory = "0"

    class Settings(LocalSgdSettings, ClippedSgdSettings):
        """eta is lr, I is interval."""

    def local_step(self, g: Gradient) -> None:
        d = self.direction(g)
        self.descend(d, self.clip(d.vector))  # x -= min(eta, gamma/||g||) * d
