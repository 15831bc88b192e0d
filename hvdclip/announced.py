"""What a launcher (mpirun, horovodrun, srun) announces in the environment, and which one has started this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# In this order: under mpirun inside a SLURM job SLURM's own variables describe the batch step, not the ranks.
SIZES = ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE", "SLURM_STEP_NUM_TASKS")
RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")

# The names under which an MPI starts ranks.
MPIRUN = ("mpirun", "mpiexec", "prterun", "orterun")


def announced_ranks() -> tuple[int, str]:
    """The number of ranks that the launcher announces, and the variable that says so; (1, "") without a launcher."""
    for name in SIZES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name]), name
    return 1, ""


def announced_rank() -> int:
    """This process's rank as the launcher announces it, before any communicator exists; 0 without a launcher."""
    for name in RANKS:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def ancestors(names: Sequence[str]) -> list[int]:
    """The ancestors of this process that are programs with these names, the nearest first."""
    found, pid = [], os.getpid()
    while pid > 1:
        try:
            # the second field, the program's name in parentheses, may contain spaces
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
        if _runs(pid, names):
            found.append(pid)
    return found


def _runs(pid: int, names: Sequence[str]) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # for a script the name is the interpreter's argument
    return any(os.path.basename(word.decode(errors="replace")) in names for word in words[:2])
