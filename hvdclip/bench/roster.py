"""The roster: the peers that can run here, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable

from hvdclip.bench.blocks import Peer
from hvdclip.comm import Communicator


class Roster:
    """Peers by name; one that some rank cannot run is left out on all, and its reason is recorded."""

    def __init__(self, comm: Communicator):
        self.comm = comm
        self.peers: dict[str, Peer] = {}
        self.absent: dict[str, str] = {}

    def add(self, name: str, make: Callable[[], Peer]) -> None:
        """Add what make() returns, unless it raises ImportError, RuntimeError or ValueError on some rank."""
        # Peers communicate in make(), which is safe if all ranks lack the same (a launcher, MPI, several hosts); a
        # package that is installed only on some hosts can make the others hang here.
        reason = ""
        try:
            peer = make()
        except (ImportError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
        reasons = list(filter(None, self.comm.gather(reason, "bench")))
        if reasons:
            self.absent[name] = reasons[0]
        else:
            self.peers[name] = peer
