"""The communicator that follows from what a launcher (mpirun, horovodrun, srun) announces."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

from hvdclip.announced import MPIRUN, SIZES, ancestors, announced_ranks
from hvdclip.comm.base import Communicator
from hvdclip.comm.single import SingleRank
from hvdclip.project import SET_UP

Backend = Literal["horovod", "mpi4py"]

# Values that suit local training better than MPI's and Horovod's defaults; the user's environment takes precedence.
TUNED = {
    # A rank that waits, and Horovod's thread that looks for work, leave the core to steps that need it.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # By default Open MPI and the kernel take all of a large message for a TCP connection at once, and the reply that
    # lets the other rank send waits behind it: ranks that do not begin together send one after the other. Without "put"
    # a message goes piece by piece, and the kernel buffers about this many bytes that are not sent yet.
    "OMPI_MCA_btl_tcp_flags": "send,inplace",
    "OMPI_MCA_btl_tcp_sndbuf": str(2**18),
    # Milliseconds between two looks for work; the default, 1, is longer than a small model's average takes.
    "HOROVOD_CYCLE_TIME": "0.1",
}


def communicator(given: Any = None) -> Communicator:
    """The communicator that is given, the ranks of a Horovod process set, or the result of default().

    Raises TypeError for anything else, and for process sets what Horovod(...) raises.
    """
    if given is None:
        return default()
    if isinstance(given, Communicator):
        return given
    if not hasattr(given, "process_set_id"):
        raise TypeError(
            f"comm is of type {type(given).__name__}; allowed: a Communicator of hvdclip, a process set of Horovod, "
            "or None"
        )
    from hvdclip.comm.horovod import Horovod

    return Horovod(given)


def default() -> Communicator:
    """Horovod if it is initialised, otherwise one rank.

    Raises RuntimeError if a launcher announces more than one rank, but Horovod is not initialised or each process is
    its own world.
    """
    horovod = sys.modules.get("horovod.torch")
    if horovod is not None and horovod.is_initialized():
        from hvdclip.comm.horovod import Horovod, mpi_world

        _check_mpirun()
        # If ranks come and go, the environment does not follow. A part of MPI's world may have one rank.
        if horovod.size() == 1 and os.environ.get("HOROVOD_ELASTIC") != "1" and mpi_world() == 1:
            _check_srun()
            _check_size("Horovod", 1)
        return Horovod()
    ranks, variable = announced_ranks()
    if ranks > 1:
        raise RuntimeError(
            f"{variable}={ranks} announces {ranks} ranks, but Horovod is not initialised: call horovod.torch.init() "
            "before hvdclip.optimizer(...), or pass comm= (otherwise each rank would train alone)"
        )
    return SingleRank()


def launched(
    backend: Backend = "horovod", process_sets: bool = False, fusion: bool = True, host_staging: bool = False
) -> Communicator:
    """The communicator of a process that a launcher may have started; starts the backend if ranks are announced.

    `process_sets` lets Horovod average inside a node, `fusion` join small messages. With `host_staging` a GPU's tensors
    pass through the host's memory, as they always do with mpi4py. Raises RuntimeError before the backend starts if the
    launch would give N worlds of one rank, and afterwards if the backend's world is not the announced one.
    """
    ranks, variable = announced_ranks()
    if not variable:
        return SingleRank()
    if variable == "SLURM_STEP_NUM_TASKS" and ranks == 1:
        return SingleRank()
    _check_srun()
    _check_mpirun()
    library = "Horovod" if backend == "horovod" else backend
    try:
        comm = _start(backend, process_sets, fusion, host_staging)
    except ImportError as error:
        if ranks == 1:
            return SingleRank()
        raise RuntimeError(
            f"{variable}={ranks} announces {ranks} ranks, but {library} cannot be imported ({error}): run {SET_UP}"
        ) from error
    _check_size(library, comm.size)
    return comm


def _check_srun() -> None:
    """RuntimeError for tasks that cannot communicate with each other."""
    ranks, variable = announced_ranks()
    if variable == "SLURM_STEP_NUM_TASKS" and ranks > 1 and not {"PMIX_RANK", "PMI_RANK"} & set(os.environ):
        raise RuntimeError(
            f"srun started {ranks} tasks without MPI support, so each would train alone: use srun --mpi=pmix "
            "(srun --mpi=list shows what this cluster has)"
        )


def _check_mpirun() -> None:
    """RuntimeError for several worlds, each started by its own mpirun."""
    # on other nodes srun has rightly started mpirun's daemons
    if announced_ranks()[1] == SIZES[0] and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and ancestors(MPIRUN):
        raise RuntimeError(
            f"srun started mpirun {os.environ['SLURM_STEP_NUM_TASKS']} times, each with its own world: use one srun "
            "--mpi=pmix, or one mpirun"
        )


def _check_size(library: str, size: int) -> None:
    ranks, variable = announced_ranks()
    if size != ranks:
        raise RuntimeError(
            f"{variable}={ranks} announces {ranks} ranks, but {library}'s world has {size}: the launcher and "
            f"{library}'s MPI do not fit together"
        )


def leave_stalls_to_the_watch() -> None:
    """Before Horovod starts: its own check does not know rounds, and would warn of ranks that take their I steps."""
    os.environ.setdefault("HOROVOD_STALL_CHECK_DISABLE", "1")


def check_elastic(backend: Backend, node_interval: int | None) -> None:
    """RuntimeError or ValueError if ranks cannot come and go."""
    if os.environ.get("HOROVOD_ELASTIC") != "1":
        raise RuntimeError(
            "--elastic needs a launcher that discovers hosts: horovodrun --min-np 1 --max-np 4 "
            "--host-discovery-script SCRIPT hvdclip train ..."
        )
    if backend != "horovod":
        raise ValueError(f"comm.backend is {backend!r}; allowed with --elastic: horovod")
    if node_interval is not None:
        raise ValueError(
            f"algorithm.node_interval is {node_interval}; allowed with --elastic: none, because nodes may go"
        )


def _start(backend: Backend, process_sets: bool, fusion: bool, host_staging: bool) -> Communicator:
    if os.environ.get("HOROVOD_CONTROLLER") != "gloo":  # MPI's looks for work cost more
        for name, value in TUNED.items():
            os.environ.setdefault(name, value)
    if backend == "mpi4py":
        from hvdclip.comm.mpi import Mpi4py

        return Mpi4py()
    from hvdclip.comm.horovod import initialise

    return initialise(process_sets, fusion, host_staging)
