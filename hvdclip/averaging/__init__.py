"""How and when local methods average their parameters: exchanges, averages inside a node, intervals."""

from hvdclip.averaging.exchange import Compressed, Copied, Exchange, InPlace, compressed
from hvdclip.averaging.intervals import Intervals, MeasuredIntervals, in_words
from hvdclip.averaging.node import NodeAverage

__all__ = [
    "Compressed",
    "Copied",
    "Exchange",
    "InPlace",
    "Intervals",
    "MeasuredIntervals",
    "NodeAverage",
    "compressed",
    "in_words",
]
