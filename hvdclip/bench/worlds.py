"""The worlds of ranks that peers need besides hvdclip's; RuntimeError with the reason if one is missing."""

from __future__ import annotations

import sys
from typing import Any

from hvdclip.comm import Communicator


def horovod() -> Any:
    """Horovod's torch module, started."""
    hvd = sys.modules.get("horovod.torch")
    if hvd is None or not hvd.is_initialized():
        raise RuntimeError("Horovod is not started: use mpirun, horovodrun or srun")
    return hvd


def mpi(comm: Communicator) -> Any:
    """mpi4py's MPI; its world is that of comm."""
    if not horovod().mpi_enabled():
        raise RuntimeError("Horovod runs without MPI")
    from mpi4py import MPI

    if MPI.COMM_WORLD.size != comm.size:
        raise RuntimeError(f"the world of mpi4py has {MPI.COMM_WORLD.size} ranks")
    return MPI
