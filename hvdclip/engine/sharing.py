"""What other ranks have of a vector that a method keeps beside x, at the end of a round."""

from enum import Enum


class Sharing(Enum):
    """OWN: each rank has another. COMMON: all have the same, or make it anew. TRAVELS: averaged together with x."""

    OWN = "own"
    COMMON = "common"
    TRAVELS = "travels"


OWN, COMMON, TRAVELS = Sharing
