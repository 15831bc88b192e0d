"""IAN-SGD: normalisation by a power of an independent gradient's norm.

Yang, Tripp, Sun, Zou, Zhou: Independently-Normalized SGD for Generalized-Smooth Nonconvex Optimization. 2024.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, Finite, setting


class IANSGD(LocalMethod):
    name = "ian_sgd"
    formula = "h_i = max(a ||g_i'|| + delta, Gamma); x_i -= eta g_i/h_i^beta; every I steps x_i = mean x"
    paper = "Yang, Tripp, Sun, Zou, Zhou, 2024"
    message_size = "P every I steps"
    memory = "0"
    peak = "2P"
    extra_gradients = "1 a step"

    class Settings(AveragingSettings):
        """eta is lr, I is interval."""

        beta: Finite = setting(gt=0, le=1, description="beta, power of the norm")
        a: Finite = setting(1.0, gt=0, description="a, weight of the norm of the independent gradient g'")
        delta: Finite = setting(ge=0, description="delta, added to that weighted norm", unit="g")
        floor: Finite = setting(gt=0, description="Gamma, the smallest h", unit="g")

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def changes(self) -> tuple[str, ...]:
        return ()  # besides x

    def local_step(self, g: Gradient) -> None:
        g_b = g.clone()  # the second gradient overwrites .grad
        norm = self.fresh_gradient().norm()
        h = (self.settings.a * norm + self.settings.delta).clamp(min=self.settings.floor)
        self.move(g_b, h**-self.settings.beta)  # x -= eta * g/h^beta
