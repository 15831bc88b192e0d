"""What other ranks have of a vector that a method keeps beside x, at the end of a round."""

from enum import Enum


class Sharing(Enum):
    """OWN: each rank has another, or it is of no use without what each has, as a mean of such vectors is.

    COMMON: all have the same, or make it anew. TRAVELS: it is averaged together with x, in the same message.
    """

    OWN = "own"
    COMMON = "common"
    TRAVELS = "travels"


OWN, COMMON, TRAVELS = Sharing
