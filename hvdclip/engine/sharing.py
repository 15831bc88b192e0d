"""How the ranks' values of a vector relate at the end of a round, for each vector that a method has besides x."""

from enum import Enum


class Sharing(Enum):
    """OWN: each rank has a different one, or needs what each rank has, for example if it is a mean of such vectors.

    COMMON: all have the same one, or compute it again. TRAVELS: it is averaged with x, in the same message.
    """

    OWN = "own"
    COMMON = "common"
    TRAVELS = "travels"


OWN, COMMON, TRAVELS = Sharing
