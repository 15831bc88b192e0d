"""Synchronous SGD: the gradients are averaged at every step."""

from hvdclip.engine import GradientMethod
from hvdclip.flat import Gradient
from hvdclip.settings import SgdSettings


class MinibatchSGD(GradientMethod):
    name = "minibatch_sgd"
    formula = "x -= eta d, d from mean g_i"
    paper = "Dekel, Gilad-Bachrach, Shamir, Xiao, JMLR 2012"
    message_size = "P every step"
    memory = "P"

    class Settings(SgdSettings):
        """eta is lr."""

    def joinable(self) -> bool:
        return True  # a gradient of zero adds nothing to the mean

    def gradient_step(self, g: Gradient) -> None:
        self.sgd.descend(self.sgd.direction(self.mean(g)))  # x -= eta * d
