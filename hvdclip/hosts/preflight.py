"""What every training run looks at before it begins: that the ranks are one world, each with a GPU of its own."""

from __future__ import annotations

from collections.abc import Sequence

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.hosts.facts import Facts, facts, sharing


def preflight(config: Config, comm: Communicator) -> None:
    """ValueError, on all ranks, where they were launched wrongly."""
    everyone = comm.gather(facts(comm, on_gpus=config.train.device != "cpu"))
    check_tasks(everyone)
    shared = [] if config.comm.share_gpus else sharing(everyone)
    if shared:
        one, ranks = shared[0][0], ", ".join(str(rank.rank) for rank in shared[0])
        raise ValueError(
            f"ranks {ranks} on {one.host} would share GPU {one.gpu} of {len(one.gpus)}; start as many ranks a node as "
            "it has GPUs, or set comm.share_gpus, or train.device=cpu"
        )


def check_tasks(everyone: Sequence[Facts]) -> None:
    """ValueError where SLURM's job is of more tasks than there are ranks."""
    # those that mpirun has started on other nodes see fewer: its daemons there are tasks of their own
    most, ranks = max(one.tasks for one in everyone), len(everyone)
    if most > ranks:
        raise ValueError(
            f"SLURM_NTASKS is {most}, but the world has {ranks} rank{'s' * (ranks > 1)}: start all "
            "by one srun --mpi=pmix or mpirun, never by srun mpirun; or unset SLURM_NTASKS if so many are meant"
        )
