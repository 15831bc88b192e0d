"""How and when local methods average their parameters: intervals, rules, exchanges, an outer step."""

from hvdclip.averaging.compressed import Compressed, compressed
from hvdclip.averaging.delayed import Delayed
from hvdclip.averaging.exchange import Copied, Exchange, InPlace
from hvdclip.averaging.fragments import Fragments, fragments_of
from hvdclip.averaging.intervals import Intervals, MeasuredIntervals, starts_in_words
from hvdclip.averaging.node import NodeAverage, NodeFirst
from hvdclip.averaging.outer import Outer, OuterParts, OuterStep
from hvdclip.averaging.participation import Everyone, Participation, Sample
from hvdclip.averaging.plain import Plain
from hvdclip.averaging.rounds import Rounds
from hvdclip.averaging.rule import Rule
from hvdclip.averaging.states import States, StatesToo
from hvdclip.averaging.warmup import GradientWarmup

__all__ = [
    "Compressed",
    "Copied",
    "Delayed",
    "Everyone",
    "Exchange",
    "Fragments",
    "GradientWarmup",
    "InPlace",
    "Intervals",
    "MeasuredIntervals",
    "NodeAverage",
    "NodeFirst",
    "Outer",
    "OuterParts",
    "OuterStep",
    "Participation",
    "Plain",
    "Rounds",
    "Rule",
    "Sample",
    "States",
    "StatesToo",
    "compressed",
    "fragments_of",
    "starts_in_words",
]
