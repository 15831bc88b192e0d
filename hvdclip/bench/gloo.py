"""torch.distributed next to Horovod: a gloo process group of the same ranks."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch.distributed as dist

from hvdclip.comm import Communicator

PATIENCE = timedelta(minutes=5)


def start(comm: Communicator) -> None:
    """Start the process group, once, with a store on rank 0's host; RuntimeError if the ranks cannot reach it."""
    if dist.is_initialized():
        return
    store = None
    if comm.rank == 0:
        store = dist.TCPStore("0.0.0.0", 0, comm.size, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    everyone = comm.gather((socket.gethostname(), _address(), store.port if store else 0), "bench")
    name, address, port = everyone[0]
    if all(host == name for host, _, _ in everyone):
        address = "127.0.0.1"
    if not address:
        raise RuntimeError(f"rank 0's host name {name} has no address")
    if store is None:
        store = dist.TCPStore(address, port, comm.size, is_master=False, timeout=PATIENCE)
    os.environ.setdefault("MASTER_ADDR", address)  # accelerate requires it, although the group exists already
    dist.init_process_group("gloo", store=store, rank=comm.rank, world_size=comm.size, timeout=PATIENCE)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _address() -> str:
    """This host's address from its own name, or nothing."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""
