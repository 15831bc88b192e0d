"""Parameters and gradients as vectors, and the few scalars of a step."""

from hvdclip.vectors.scalars import Scalar
from hvdclip.vectors.space import Space
from hvdclip.vectors.vector import HALVES, Gradient, Vector

__all__ = ["HALVES", "Gradient", "Scalar", "Space", "Vector"]
