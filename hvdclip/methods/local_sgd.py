"""Local SGD (FedAvg): steps without clipping, averaged every I steps.

McMahan, Moore, Ramage, Hampson, Agueera y Arcas, AISTATS 2017; Stich, ICLR 2019.
"""

from hvdclip.flat import Gradient
from hvdclip.methods.averaging_settings import LocalSgdSettings
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.sgd_family import SgdFamily


class LocalSGD(SgdFamily, LocalMethod):
    name = "local_sgd"
    formula = "x_i -= eta d_i; every I steps x_i = mean x"
    paper = "McMahan et al., AISTATS 2017; Stich, ICLR 2019"
    message_size = "P every I steps"
    memory = "0"

    class Settings(LocalSgdSettings):
        """eta is lr, I is interval."""

    def local_step(self, g: Gradient) -> None:
        self.descend(self.direction(g))  # x -= eta * d
