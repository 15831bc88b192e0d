"""||EF21-SGDM||: error feedback with momentum and a normalised server step; messages may be sparse.

Khirirat et al.: Error Feedback under (L0, L1)-Smoothness: Normalization and Momentum. 2025.
"""

from typing import Any

from hvdclip.engine import GradientMethod
from hvdclip.flat import Gradient, Vector
from hvdclip.messages import TopKMessage
from hvdclip.settings import CommonSettings, Finite, setting


class EF21Norm(GradientMethod):
    name = "ef21_norm"
    formula = "u_i = (1-b) u_i + b g_i; m_i = C(u_i - h_i); h_i += m_i; h += mean m_i; x -= eta h/||h||"
    paper = "Khirirat et al., 2025"
    message_size = "2k every step (P if k is none)"
    memory = "4P + 2k (4P if k is none)"
    peak = "7P if k is none"

    class Settings(CommonSettings):
        """eta is lr; C takes the k largest entries, or all."""

        b: Finite = setting(0.9, gt=0, le=1, description="b, weight of the new gradient in u_i")
        k: int | None = setting(None, ge=1, description="k, entries of a message; none: all of them", unit="entries")

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return settings.k is None

    def keeps(self) -> tuple[str, ...]:
        return ("u_i", "h_i", "h")

    def make_messages(self) -> list[Any]:
        k = self.settings.k
        if k is None:
            return super().make_messages()
        if k > self.space.size:
            raise ValueError(f"k is {k}; allowed: 1 to the number of parameters, which is {self.space.size}")
        return [self.message_of(k, [self.buffers, self.statistics], kind=TopKMessage)]

    def gradient_step(self, g: Gradient) -> None:
        b = self.settings.b
        u_i, h_i, h = (self.vectors[name] for name in ("u_i", "h_i", "h"))
        new_u_i = ((1 - b) * u_i).add_(b * g) if "started" in self.numbers else g
        m_i = new_u_i - h_i
        m_i, m = self._compressed_mean(m_i)
        self.numbers["started"] = True
        u_i.copy_(new_u_i)
        h_i.add_(m_i)
        h.add_(m)
        self.move_normalized(h)  # x -= eta * h/||h||

    def _compressed_mean(self, m_i: Vector) -> tuple[Vector, Vector]:
        """C(m_i), and its mean over the ranks."""
        if self.settings.k is None:
            return m_i, self.mean(m_i)
        m_i = self.message.take(m_i)
        self.exchange()
        return m_i, self.message.vectors[0]
