"""The baseline of the CELGC paper: gradients averaged at every step, then clipped.

Liu, Zhuang, Lei, Liao, NeurIPS 2022, section 5 ("Naive Parallel SGDClip").
"""

from hvdclip.engine import GradientMethod
from hvdclip.flat import Gradient
from hvdclip.settings import ClippedSgdSettings


class NaiveParallelClip(GradientMethod):
    name = "naive_parallel_clip"
    formula = "g = mean g_i; x -= min(eta, gamma/||g||) d"
    paper = "Liu, Zhuang, Lei, Liao, NeurIPS 2022, section 5"
    message_size = "P every step"
    memory = "P"

    class Settings(ClippedSgdSettings):
        """eta is lr."""

    def joinable(self) -> bool:
        return True  # a gradient of zero adds nothing to the mean

    def gradient_step(self, g: Gradient) -> None:
        d = self.sgd.direction(self.mean(g))
        self.sgd.descend(d, self.clip(d.vector))  # x -= min(eta, gamma/||mean g||) * d
