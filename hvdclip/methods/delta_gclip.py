"""Gradient clipping whose step never falls below a share delta of eta.

Tucat et al., TMLR 2025 (delta-GClip). delta = 0 is clipping, delta >= 1 is SGD.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, Finite, ThresholdSettings, setting


class DeltaGClip(LocalMethod):
    name = "delta_gclip"
    formula = "x_i -= eta min(1, max(delta, c/||g_i||)) g_i; every I steps x_i = mean x"
    paper = "Tucat et al., TMLR 2025"
    message_size = "P every I steps"
    memory = "0"

    class Settings(AveragingSettings, ThresholdSettings):
        """eta is lr, c is max_norm (or gamma/eta), I is interval."""

        delta: Finite = setting(ge=0, description="delta, the smallest share of eta that a step has")

    @property
    def changes(self) -> tuple[str, ...]:
        return ()  # besides x

    def local_step(self, g: Gradient) -> None:
        factor = self.clip_message(g, self.threshold).clamp(min=min(1.0, self.settings.delta))
        self.move(g, factor * (g.norm() > 0))  # x -= eta * min(1, max(delta, c/||g||)) * g
