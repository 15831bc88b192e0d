"""Mixed clipping: one smoothly clipped step along the momentum and one along the gradient.

Zhang, Jin, Fang, Wang: Improved Analysis of Clipping Algorithms for Non-convex Optimization. NeurIPS 2020, Algorithm 1.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, Finite, ThresholdSettings, setting


class MixClipSettings(AveragingSettings, ThresholdSettings):
    """eta is lr, I is interval."""

    beta: Finite = setting(0.9, ge=0, lt=1, description="beta, weight of the past in the momentum")


def mixed_step(method: LocalMethod, g: Gradient, nu: float) -> None:
    """x -= nu eta/(1 + eta||m||/gamma) m + (1-nu) eta/(1 + eta||g||/gamma) g, with the momentum m of g."""
    beta, c = method.settings.beta, method.threshold
    decayed = method.with_weight_decay(g)  # here weight decay is added before the norms
    method.clip(decayed)  # counts the step
    m = method.vectors["m"].lerp_(decayed, 1 - beta)
    of_m, of_g = nu / (1 + m.norm() / c), (1 - nu) / (1 + decayed.norm() / c)
    method.move(m, of_m, weight_decay=False)
    method.move(decayed, of_g, weight_decay=False)


class MixClip(LocalMethod):
    name = "mix_clip"
    formula = (
        "m_i = beta m_i + (1-beta) g_i; x_i -= nu eta/(1 + eta||m_i||/gamma) m_i"
        " + (1-nu) eta/(1 + eta||g_i||/gamma) g_i; every I steps x_i = mean x"
    )
    paper = "Zhang, Jin, Fang, Wang, NeurIPS 2020, Algorithm 1"
    message_size = "P every I steps"
    memory = "P"

    class Settings(MixClipSettings):
        """eta is lr, I is interval."""

        nu: Finite = setting(0.7, ge=0, le=1, description="nu, share of the step along the momentum")

    @property
    def changes(self) -> tuple[str, ...]:
        return ("m",)

    def keeps(self) -> tuple[str, ...]:
        return ("m",)

    def local_step(self, g: Gradient) -> None:
        mixed_step(self, g, self.settings.nu)
