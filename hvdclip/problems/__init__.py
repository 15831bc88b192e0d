"""Problems with known answers, by name: small functions of a point x, divided over the ranks."""

from __future__ import annotations

from collections.abc import Callable

from .base import Problem
from .biased import Biased
from .bilevel import Bilevel, Cosh, Quadratic
from .cancelling import Cancelling
from .logistic import Logistic
from .phase_retrieval import PhaseRetrieval
from .quadratics import Quadratics
from .quartics import Quartics

__all__ = ["PROBLEMS", "Bilevel", "Problem"]

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "biased": Biased,
    "bilevel_cosh": Cosh,
    "bilevel_quadratic": Quadratic,
    "cancelling": Cancelling,
    "libsvm": Logistic,
    "phase_retrieval": PhaseRetrieval,
    "quadratics": Quadratics,
    "quartics": Quartics,
}
