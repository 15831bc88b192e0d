"""Each rank clips its own gradient, then the clipped gradients are averaged.

Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik: Clip21, 2023, section 1 (there the baseline that can stall).
"""

from hvdclip.flat import Gradient
from hvdclip.methods.gradient import GradientMethod
from hvdclip.methods.settings import ClippedSgdSettings
from hvdclip.methods.sgd_family import Direction, SgdFamily


class ClipThenAverage(SgdFamily, GradientMethod):
    name = "clip_then_average"
    formula = "x -= eta d, d from mean clip(g_i, c), c = gamma/eta"
    paper = "Khirirat et al., Clip21, 2023, section 1"
    message_size = "P every step"

    class Settings(ClippedSgdSettings):
        """eta is lr."""

    def gradient_step(self, g: Gradient) -> None:
        d = self.direction(g)
        m = self.mean(d.vector, self.clip_message(d.vector, self.threshold))  # mean clip(g_i, c)
        self.descend(Direction(m, d.decayed))  # x -= eta * m
