"""What every training run checks before it begins: that the ranks are one world, and that their GPUs fit it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.hosts.facts import Facts, facts, sharing


def preflight(config: Config, comm: Communicator) -> None:
    """ValueError, on all ranks, if they were launched incorrectly, or cannot average what is on their GPUs."""
    on_gpus = config.train.device != "cpu"
    everyone = comm.gather(facts(comm, on_gpus))
    check_tasks(everyone)
    shared = sharing(everyone)
    if on_gpus and torch.cuda.is_available():
        comm.take_gpus(shared=bool(shared))
    if shared and not config.comm.share_gpus:
        one, ranks = shared[0][0], ", ".join(str(rank.rank) for rank in shared[0])
        raise ValueError(
            f"ranks {ranks} on {one.host} would share GPU {one.gpu} of {len(one.gpus)}; start as many ranks per node "
            "as it has GPUs, or set comm.share_gpus, or train.device=cpu"
        )


def check_tasks(everyone: Sequence[Facts]) -> None:
    """ValueError if SLURM's job has more tasks than there are ranks."""
    # ranks that mpirun has started on other nodes see fewer: its daemons there are separate tasks
    most, ranks = max(one.tasks for one in everyone), len(everyone)
    if most > ranks:
        raise ValueError(
            f"SLURM_NTASKS is {most}, but the world has {ranks} rank{'s' * (ranks > 1)}: start all "
            "with one srun --mpi=pmix or mpirun, never with srun mpirun; or unset SLURM_NTASKS if this is intended"
        )
