"""What a rank can find out about its machine."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hvdclip.comm import Communicator

SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Facts:
    """Host, the cores that this rank may use, its threads, the GPUs that it sees and the one that it uses.

    `tasks` is the number of tasks of SLURM's job, from the environment; 0 if it does not matter.
    """

    rank: int
    host: str
    cores: tuple[int, ...]
    threads: int
    gpus: tuple[str, ...]
    gpu: str | None
    tasks: int


def facts(comm: Communicator, on_gpus: bool = True) -> Facts:
    """The facts of this rank; without GPUs for a run that does not use them."""
    gpus = _visible_gpus() if on_gpus else ()
    place = comm.local_rank % len(gpus) if gpus else None
    return Facts(
        rank=comm.rank,
        host=socket.gethostname(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        threads=torch.get_num_threads(),
        gpus=gpus,
        gpu=None if place is None else _identity(place, gpus[place]),
        tasks=_tasks(),
    )


def _visible_gpus() -> tuple[str, ...]:
    """As CUDA_VISIBLE_DEVICES names them, otherwise their numbers; also SLURM's GPUs if torch has no CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if named is None else tuple(name for name in named.split(",") if name not in ("", "-1", "NoDevFiles"))
    if torch.cuda.is_available():
        found = torch.cuda.device_count()  # fewer if a name does not belong to a GPU
        return names[:found] if names and len(names) >= found else tuple(map(str, range(found)))
    return names if names and "SLURM_GPUS_ON_NODE" in os.environ else ()


def _identity(place: int, name: str) -> str:
    """A unique name of a GPU on its host, even if each rank sees its own as number 0: its UUID."""
    if not torch.cuda.is_available():
        return name
    # torch has it since 2.5
    told = getattr(torch.cuda.get_device_properties(place), "uuid", None) or _uuid_by_driver(place)
    return name if told is None else str(told)


def _uuid_by_driver(place: int) -> uuid.UUID | None:
    """The answer of CUDA's driver itself; None if it cannot be asked."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, identity = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGet(ctypes.byref(device), place) or driver.cuDeviceGetUuid(identity, device):
        return None
    return uuid.UUID(bytes=bytes(identity))


def _tasks() -> int:
    tasks = os.environ.get("SLURM_NTASKS", "")
    elastic = os.environ.get("HOROVOD_ELASTIC") == "1"  # its ranks come and go
    return int(tasks) if tasks.isdigit() and not elastic else 0


def sharing(everyone: Sequence[Facts]) -> list[list[Facts]]:
    """The ranks, in groups that share one GPU of one host."""
    owners: dict[tuple[str, str], list[Facts]] = {}
    for one in everyone:
        if one.gpu is not None:
            owners.setdefault((one.host, one.gpu), []).append(one)
    return [ranks for ranks in owners.values() if len(ranks) > 1]


def interfaces() -> list[str]:
    """The network interfaces with their IPv4 addresses and, if the kernel knows it, their speed in Mbit/s."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            found.append(f"{name} {socket.inet_ntoa(answer[20:24])}{_speed(name)}")
    return found


def _speed(interface: str) -> str:
    try:
        speed = int(Path("/sys/class/net", interface, "speed").read_text())
    except (OSError, ValueError):
        return ""
    return f" {speed} Mbit/s" if speed > 0 else ""
