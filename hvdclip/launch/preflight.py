"""What every training run looks at before it begins: that the ranks are one world, each with a GPU of its own."""

from __future__ import annotations

import os

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.launch.facts import facts, sharing


def preflight(config: Config, comm: Communicator) -> None:
    """ValueError, on all ranks, where they were launched wrongly."""
    check_tasks(comm)
    shared = [] if config.train.device == "cpu" or config.comm.share_gpus else sharing(comm.gather(facts(comm)))
    if shared:
        one, ranks = shared[0][0], ", ".join(str(rank.rank) for rank in shared[0])
        raise ValueError(
            f"ranks {ranks} on {one.host} would share GPU {one.gpu} of {len(one.gpus)}; start as many ranks a node as "
            "it has GPUs, or set comm.share_gpus, or train.device=cpu"
        )


def check_tasks(comm: Communicator) -> None:
    """ValueError where SLURM's job is of more tasks than there are ranks."""
    elastic = os.environ.get("HOROVOD_ELASTIC") == "1"
    tasks = "" if elastic else os.environ.get("SLURM_NTASKS", "")
    # those that mpirun has started on other nodes see fewer: its daemons there are tasks of their own
    most = max(comm.gather(int(tasks) if tasks.isdigit() else 0))
    if most > comm.size:
        raise ValueError(
            f"SLURM_NTASKS is {most}, but the world has {comm.size} rank{'s' * (comm.size > 1)}: start all "
            "by one srun --mpi=pmix or mpirun, never by srun mpirun; or unset SLURM_NTASKS if so many are meant"
        )
