"""What training sends over the network: the ledger's payload, and the bytes that have really left the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvdclip.comm import Communicator

INTERFACES = Path("/proc/net/dev")
SENT = 8  # the column of bytes sent, after the interface's name


def bytes_sent() -> int:
    """Bytes that this network namespace's interfaces have sent so far; bytes that stay on the host do not count."""
    if not INTERFACES.exists():
        return 0
    lines = [line.split(":", 1) for line in INTERFACES.read_text().splitlines() if ":" in line]
    return sum(int(columns.split()[SENT]) for name, columns in lines if name.strip() != "lo")


class Traffic:
    """The bytes of one peer's runs on this rank and on its host."""

    def __init__(self, comm: Communicator):
        self.comm = comm
        self.runs = self.payload = self.sent = 0

    def during(self, run: Callable[[], Any]) -> None:
        payload, sent = self.comm.ledger["round"].bytes, bytes_sent()
        run()
        self.payload += self.comm.ledger["round"].bytes - payload
        self.sent += bytes_sent() - sent
        self.runs += 1

    def a_run(self) -> tuple[float, float]:
        """(payload of rank 0, bytes that a host has sent on average) for one run; all ranks call this."""
        everyone = self.comm.gather((self.payload, self.sent, self.comm.local_rank), "bench")
        hosts = [sent for _, sent, local_rank in everyone if local_rank == 0]
        return everyone[0][0] / self.runs, sum(hosts) / len(hosts) / self.runs


def ring_share(ranks: int) -> float:
    """How often a ring all-reduce sends the vector through each link: 2 (N - 1)/N."""
    return 2 * (ranks - 1) / ranks
