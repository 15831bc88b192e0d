"""Elastic Horovod: the ranks of a job change, and the ranks that exist then begin their work again."""

from __future__ import annotations

from collections.abc import Callable

import horovod.torch as hvd
from horovod.common.elastic import State
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt

from hvdclip.comm.horovod import Horovod, begin_names, initialise

RANKS_CHANGE = (HorovodInternalError, HostsUpdatedInterrupt)
"""What run() raises when ranks are gone, or when it has found changed hosts."""


class Hosts(State):
    """`changed`: the launcher has found or lost hosts. Horovod reports it to one of the ranks."""

    def __init__(self) -> None:
        super().__init__(bcast_object=None, get_rank=None)  # our own messages report it to all
        self.changed = False

    def on_hosts_updated(self, timestamp: int, update_res: int) -> None:
        self.changed = True

    def meet_change(self) -> None:
        """Leave run(), on all ranks at the same place, to begin it again with the changed hosts."""
        raise HostsUpdatedInterrupt(skip_sync=False)

    def reset(self) -> None:
        self.changed = False

    def sync(self) -> None: ...
    def save(self) -> None: ...
    def restore(self) -> None: ...


def with_changing_ranks(run: Callable[[Horovod, Hosts], None], fusion: bool = True, host_staging: bool = False) -> None:
    """Call run(comm, hosts) again with each new set of ranks, until it returns.

    If a rank dies or is added, run() ends on the others with one of RANKS_CHANGE. Without fusion each message is summed
    by itself; `host_staging` is as in Horovod().
    """

    def attempt(hosts: Hosts) -> None:
        begin_names()
        run(Horovod(host_staging=host_staging), hosts)

    initialise(fusion=fusion)
    hvd.elastic.run(attempt)(Hosts())
