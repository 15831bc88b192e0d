"""The base of every algorithm: a torch optimizer over one vector x, its gradients, steps, rounds and state."""

from hvdclip.engine.agreement import Disagreement, check_agreement
from hvdclip.engine.averages import Assembly
from hvdclip.engine.bilevel import Bilevel
from hvdclip.engine.descent import inverse
from hvdclip.engine.gradient import GradientMethod
from hvdclip.engine.groups import Parameters
from hvdclip.engine.handed import Handed, TwoLevels
from hvdclip.engine.local import LocalMethod
from hvdclip.engine.method import Method
from hvdclip.engine.sgd import Direction
from hvdclip.engine.sharing import COMMON, OWN, TRAVELS, Sharing
from hvdclip.engine.skip import StepLeftOut
from hvdclip.engine.types import Types
from hvdclip.errors import NonFiniteGradient

__all__ = [
    "COMMON",
    "OWN",
    "TRAVELS",
    "Assembly",
    "Bilevel",
    "Direction",
    "Disagreement",
    "GradientMethod",
    "Handed",
    "LocalMethod",
    "Method",
    "NonFiniteGradient",
    "Parameters",
    "Sharing",
    "StepLeftOut",
    "TwoLevels",
    "Types",
    "check_agreement",
    "inverse",
]
