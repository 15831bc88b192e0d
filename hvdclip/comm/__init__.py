"""Communicators: Horovod's or mpi4py's ranks, one rank, or N simulated ranks, behind the same calls."""

from hvdclip.announced import announced_ranks
from hvdclip.comm.base import Communicator, Cost, Ledger, Pending, Reduce, Waiting
from hvdclip.comm.environment import Backend, communicator, default, launched
from hvdclip.comm.simulated import simulate
from hvdclip.comm.single import SingleRank

__all__ = [
    "Backend",
    "Communicator",
    "Cost",
    "Ledger",
    "Pending",
    "Reduce",
    "SingleRank",
    "Waiting",
    "announced_ranks",
    "communicator",
    "default",
    "launched",
    "simulate",
]
