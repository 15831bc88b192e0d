"""How two ranks handle tensors of GPUs, on a machine without one: what is a GPU's, and which there are, is set.

mpirun -np 2 python tests/ranks_of_gpus.py      prints, as JSON, what each rank has come to
"""

import json
from types import SimpleNamespace
from unittest import mock

import horovod.torch as hvd
import torch
from test_host_staging import numbers

from hvdclip.comm import gpus
from hvdclip.comm.horovod import Horovod
from hvdclip.config import check
from hvdclip.hosts.preflight import preflight
from hvdclip.launch import doctor

CONFIG = {
    "algorithm": {"name": "celgc", "lr": 0.1, "gamma": 0.1, "interval": 2},
    "model": "point",
    "data": "quadratics",
    "train": {"steps": 2},
}
CPU = torch.device("cpu")


def collectives(comm: Horovod):
    """What each of them gives, from the rank's numbers."""
    rank = comm.rank
    average = [numbers(rank).float(), numbers(rank).view(2, 3).clone()]
    before = [tensor.clone() for tensor in average]
    wait = comm.start_average_(average)
    under_way = all(map(torch.equal, average, before))
    wait()
    gathered = comm.start_gather(numbers(rank))()[0]
    reduced = comm.start_reduction(numbers(rank).view(2, 3), lambda rows: rows.amax(dim=0))()[0]
    taken = [numbers(rank), numbers(rank) > 0]
    comm.broadcast_(taken)
    told = [*average, *gathered, *reduced, *taken]
    return under_way, [tensor.double().flatten().tolist() for tensor in told]


def refusals(comm: Horovod) -> list[str]:
    """What each collective says."""
    entries = [
        lambda: comm.average_([torch.ones(2)]),
        lambda: comm.start_gather(torch.ones(2)),
        lambda: comm.start_reduction(torch.ones(2, 2), torch.sum),
        lambda: comm.broadcast_([torch.ones(2)]),
    ]
    said = []
    for enter in entries:
        try:
            enter()
        except ValueError as error:
            said.append(str(error))
    return said


def looked_at(cuda=False, nccl=False, same_gpu=False, device="auto", **settings) -> str:
    """What preflight says, or else how tensors of GPUs go; each rank sees one GPU, as number 0."""
    card = SimpleNamespace(uuid="GPU-a" if same_gpu else f"GPU-{hvd.rank()}")
    config = check(CONFIG | {"train": {"steps": 2, "device": device}, "comm": settings})
    with built(cuda, nccl), cards(card):
        comm = Horovod(host_staging=config.comm.host_staging)
        try:
            preflight(config, comm)
        except ValueError as error:
            return str(error)
        return comm.gpus_go_by


def built(cuda: bool, nccl: bool):
    """As if Horovod had been built so, whatever it was built with here."""
    return mock.patch.multiple(hvd, cuda_built=lambda: cuda, rocm_built=lambda: False, nccl_built=lambda: nccl)


def cards(card):
    """One GPU, though torch has none."""
    there = {"is_available": lambda: True, "device_count": lambda: 1, "get_device_properties": lambda place: card}
    return mock.patch.multiple(torch.cuda, **there)


def examined(comm: Horovod) -> list[tuple[str, str, str]]:
    """What the doctor finds of GPUs."""
    chosen = mock.patch.object(doctor, "choose_device", lambda name, comm: CPU)
    with chosen, mock.patch.object(torch.cuda, "is_available", lambda: True):
        return list(doctor._on_gpus(comm, shared=False))


def main() -> None:
    hvd.init()
    with built(cuda=False, nccl=False):
        direct, staged = Horovod(), Horovod(host_staging=True)
    with mock.patch.object(gpus, "is_on_gpu", lambda tensor: True):
        copies = mock.Mock(side_effect=gpus._on_host)
        with mock.patch.object(gpus, "_on_host", copies):
            by_host = collectives(staged)
        refused = refusals(direct)
    found = {
        "direct": collectives(direct),
        "by host": by_host,
        "copies": copies.call_count,
        "refused": refused,
        "without CUDA": looked_at(),
        "without CUDA, on CPUs": looked_at(device="cpu"),
        "host_staging": looked_at(host_staging=True),
        "NCCL": looked_at(cuda=True, nccl=True),
        "CUDA": looked_at(cuda=True),
        "one GPU": looked_at(cuda=True, nccl=True, same_gpu=True),
        "share_gpus, NCCL": looked_at(cuda=True, nccl=True, same_gpu=True, share_gpus=True),
        "share_gpus, NCCL, a GPU each": looked_at(cuda=True, nccl=True, share_gpus=True),
        "share_gpus, CUDA": looked_at(cuda=True, same_gpu=True, share_gpus=True),
        "doctor without CUDA": examined(direct),
        "doctor": examined(staged),
    }
    with mock.patch.object(Horovod, "average_"):
        found["doctor, means that are none"] = examined(staged)
    everyone = direct.gather(found)
    if direct.rank == 0:
        print("FOUND", json.dumps(everyone))


if __name__ == "__main__":
    main()
