"""Momentum clipping: a smoothly clipped step along the momentum; mixed clipping with nu = 1.

Zhang, Jin, Fang, Wang: Improved Analysis of Clipping Algorithms for Non-convex Optimization. NeurIPS 2020, Algorithm 1.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.methods.mix_clip import MixClipSettings, mixed_step


class MomClip(LocalMethod):
    name = "mom_clip"
    formula = "m_i = beta m_i + (1-beta) g_i; x_i -= eta/(1 + eta||m_i||/gamma) m_i; every I steps x_i = mean x"
    paper = "Zhang, Jin, Fang, Wang, NeurIPS 2020, Algorithm 1"
    message_size = "P every I steps"
    memory = "P"

    class Settings(MixClipSettings):
        """eta is lr, I is interval."""

    @property
    def changes(self) -> tuple[str, ...]:
        return ("m",)

    def keeps(self) -> tuple[str, ...]:
        return ("m",)

    def local_step(self, g: Gradient) -> None:
        mixed_step(self, g, nu=1.0)
