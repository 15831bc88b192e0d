"""SCAFFOLD with clipped local steps; the control variate is the mean of the round's raw gradients.

Karimireddy et al., ICML 2020, with the clipped step of Crawshaw, Bao, Liu, EPISODE, ICLR 2023 (there a baseline).
"""

from hvdclip.engine import OWN, LocalMethod, Sharing
from hvdclip.flat import Gradient
from hvdclip.methods.control_variates import ControlledSettings, ControlVariates, descend, momentum_of
from hvdclip.settings import ThresholdSettings


class ScaffoldClip(LocalMethod):
    name = "scaffold_clip"
    formula = "u_i = g_i - c_i + c; x_i -= min(eta, gamma/||u_i||) u_i; every I steps c_i+ = mean g_i, x_i = mean x"
    paper = "Karimireddy et al., ICML 2020; Crawshaw, Bao, Liu, ICLR 2023"
    message_size = "2P every I steps"
    memory = "4P"
    peak = "5P"

    class Settings(ControlledSettings, ThresholdSettings):
        """eta is lr, I is interval."""

    @property
    def changes(self) -> tuple[str, ...]:
        return (*momentum_of(self.settings), "mean_g")

    def keeps(self) -> dict[str, Sharing]:
        return ControlVariates.keeps(self.settings) | {"mean_g": OWN}

    def set_up(self) -> None:
        self.controls = ControlVariates(self)

    def start_round(self) -> None:
        self.numbers["steps_done"] = 0
        self.vectors["mean_g"].zero_()

    def local_step(self, g: Gradient) -> None:
        self.numbers["steps_done"] += self.skip.taken
        u = self.controls.corrected(self, g)
        descend(self, u, self.clip(u))  # x -= min(eta, gamma/||u||) * u
        self.vectors["mean_g"].lerp_(g, 1 / self.numbers["steps_done"])

    def end_round(self) -> None:
        self.controls.replace(self.vectors["mean_g"], self.numbers["steps_done"] > 0)

    def after_average(self) -> None:
        self.controls.after_average()
