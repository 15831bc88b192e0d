"""Local SGD with a proximal term that holds each rank near the last average.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks. MLSys 2020.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import Finite, LocalSgdSettings, setting


class FedProx(LocalMethod):
    name = "fedprox"
    formula = "g_i += mu (x_i - x_round); x_i -= eta d_i; every I steps x_i = mean x"
    paper = "Li et al., MLSys 2020"
    message_size = "P every I steps"
    memory = "P"
    peak = "2P"

    class Settings(LocalSgdSettings):
        """eta is lr, I is interval."""

        mu: Finite = setting(ge=0, description="mu, weight of the proximal term mu/2 ||x - x_round||^2", unit="g/x")

        @property
        def needs_x_round(self) -> bool:
            return True

    def local_step(self, g: Gradient) -> None:
        g_prox = (self.x - self.x_round).mul_(self.settings.mu).add_(g)
        self.sgd.descend(self.sgd.direction(g_prox))  # x -= eta * d
