"""hvdclip setup-horovod."""

from __future__ import annotations

import subprocess
import sys

import click

from hvdclip import project
from hvdclip.command.exits import bad_input


@click.command("setup-horovod")
def setup_horovod_command() -> None:
    """Install Horovod into this environment, for its torch.

    Builds Horovod and installs it with mpi4py and, if no MPI is on PATH, with the wheel of Open MPI. Does not change
    torch. At the end two ranks average, as a check.

    Without a network, let WHEELS name a folder of wheels to install from. HVDCLIP_CACHE names the folder that stores
    the built Horovod.
    """
    script = bad_input(lambda: project.part("jobs/setup_horovod.sh"))
    sys.exit(bad_input(lambda: subprocess.run(["bash", str(script), sys.executable]).returncode))
