"""Clip21: error feedback for clipping: what one message omits comes in a later one.

Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik: Clip21: Error Feedback for Gradient Clipping. 2023,
Algorithm 1.
"""

from hvdclip.engine import GradientMethod
from hvdclip.flat import Gradient
from hvdclip.settings import CommonSettings, Positive, setting


class Clip21(GradientMethod):
    name = "clip21"
    formula = "m_i = clip(g_i - v_i, tau); v_i += m_i; v += mean m_i; x -= eta v"
    paper = "Khirirat et al., Clip21, 2023, Algorithm 1"
    message_size = "P every step"
    memory = "3P"
    peak = "4P"

    class Settings(CommonSettings):
        """eta is lr."""

        tau: Positive = setting(description="tau, the largest norm of a message", unit="g")

    def keeps(self) -> tuple[str, ...]:
        return ("v_i", "v")

    def gradient_step(self, g: Gradient) -> None:
        v_i, v = self.vectors["v_i"], self.vectors["v"]
        m_i = g - v_i
        m_i.mul_(self.clip_message(m_i, self.settings.tau))
        m = self.mean(m_i)
        v_i.add_(m_i)
        v.add_(m)
        self.move(v)  # x -= eta * v
