"""Mixed clipping: one smoothly clipped step along the momentum and one along the gradient.

Zhang, Jin, Fang, Wang: Improved Analysis of Clipping Algorithms for Non-convex Optimization. NeurIPS 2020, Algorithm 1.
"""

from hvdclip.flat import Gradient
from hvdclip.methods.averaging_settings import AveragingSettings
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.settings import Finite, ThresholdSettings, setting


class MixClipSettings(AveragingSettings, ThresholdSettings):
    """eta is lr, I is interval."""

    beta: Finite = setting(0.9, ge=0, lt=1, description="beta, weight of the past in the momentum")


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
    def nu(self) -> float:
        return self.settings.nu

    def keeps(self) -> tuple[str, ...]:
        return ("m",)

    def local_step(self, g: Gradient) -> None:
        beta, c = self.settings.beta, self.threshold
        decayed = self.with_weight_decay(g)  # weight decay comes before the norms here
        self.clip(decayed)  # counts the step
        m = self.vectors["m"].copy_(beta * self.vectors["m"] + (1 - beta) * decayed)
        of_m, of_g = self.nu / (1 + m.norm() / c), (1 - self.nu) / (1 + decayed.norm() / c)
        self.move(m, of_m, weight_decay=False)
        self.move(decayed, of_g, weight_decay=False)
