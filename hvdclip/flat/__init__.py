"""Parameters and gradients as flat vectors, and the few scalars of a step."""

from hvdclip.flat.scalars import Scalar
from hvdclip.flat.space import Part, Space, in_own_storage
from hvdclip.flat.vector import HALVES, Gradient, Vector

__all__ = ["HALVES", "Gradient", "Part", "Scalar", "Space", "Vector", "in_own_storage"]
