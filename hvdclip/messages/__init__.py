"""Messages: all that a rank hands to the others at one time, in as few collectives as there can be."""

from hvdclip.messages.message import Message, mean_over_ranks
from hvdclip.messages.riders import Rider, Riders
from hvdclip.messages.sharded import ShardedMessage
from hvdclip.messages.top_k import TopKMessage

__all__ = ["Message", "Rider", "Riders", "ShardedMessage", "TopKMessage", "mean_over_ranks"]
