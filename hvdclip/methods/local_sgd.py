"""Local SGD (FedAvg): steps without clipping, averaged every I steps.

McMahan, Moore, Ramage, Hampson, Agueera y Arcas, AISTATS 2017; Stich, ICLR 2019.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import LocalSgdSettings


class LocalSGD(LocalMethod):
    name = "local_sgd"
    formula = "x_i -= eta d_i; every I steps x_i = mean x"
    paper = "McMahan et al., AISTATS 2017; Stich, ICLR 2019"
    message_size = "P every I steps"
    memory = "0"

    class Settings(LocalSgdSettings):
        """eta is lr, I is interval."""

    def local_step(self, g: Gradient) -> None:
        self.sgd.descend(self.sgd.direction(g))  # x -= eta * d
