"""Messages: vectors and riders that a rank sends at one time, in as few collectives as possible."""

from hvdclip.messages.buffers import Buffers, MovingBuffers
from hvdclip.messages.message import Message, mean_over_ranks
from hvdclip.messages.riders import Rider, Riders
from hvdclip.messages.sharded import ShardedMessage
from hvdclip.messages.statistics import Statistics
from hvdclip.messages.top_k import TopKMessage

__all__ = [
    "Buffers",
    "Message",
    "MovingBuffers",
    "Rider",
    "Riders",
    "ShardedMessage",
    "Statistics",
    "TopKMessage",
    "mean_over_ranks",
]
