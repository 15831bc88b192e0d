"""Each rank clips its own gradient, then the clipped gradients are averaged.

Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik: Clip21, 2023, section 1 (there the baseline that can stall).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from hvdclip.engine import COMMON, OWN, Direction, GradientMethod, Sharing, StepLeftOut
from hvdclip.flat import Gradient
from hvdclip.settings import ClippedSgdSettings


class ClipThenAverage(GradientMethod):
    name = "clip_then_average"
    formula = "x -= eta d, d from mean clip(g_i, c), c = gamma/eta"
    paper = "Khirirat et al., Clip21, 2023, section 1"
    message_size = "P every step"
    memory = "P"

    class Settings(ClippedSgdSettings):
        """eta is lr."""

    def _momentum_sharing(self) -> Sharing:
        # the momentum of this rank's own gradients, if it is updated before they are averaged
        return OWN if self.settings.norm_of == "update" else COMMON

    def gradient_step(self, g: Gradient) -> None:
        with self._momentum_unless_left_out():
            d = self.sgd.direction(g)
            m = self.mean(d.vector, self.clip_message(d.vector, self.threshold))  # mean clip(g_i, c)
        self.sgd.descend(Direction(m, d.decayed))  # x -= eta * m

    @contextmanager
    def _momentum_unless_left_out(self) -> Iterator[None]:
        """With norm_of: update the momentum changes before a step is known to be left out; then it is restored."""
        moves = self.settings.norm_of == "update" and self.settings.momentum
        before = self.vectors["momentum"].clone() if moves else None
        try:
            yield
        except StepLeftOut:
            if before is not None:
                self.vectors["momentum"].copy_(before)
            raise
