"""Communicators: Horovod's ranks, one rank, or N simulated ranks in one process, behind the same calls."""

from hvdclip.comm.base import Communicator, Cost, Ledger, Waiting
from hvdclip.comm.environment import announced_ranks, default
from hvdclip.comm.simulated import simulate
from hvdclip.comm.single import SingleRank

__all__ = ["Communicator", "Cost", "Ledger", "SingleRank", "Waiting", "announced_ranks", "default", "simulate"]
