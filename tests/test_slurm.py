"""Jobs on a real SLURM of two nodes: one world of ranks, and the job template."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from conftest import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.ranks]

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def wait_for_job(cluster: SlurmCluster, job: str, seconds: float) -> dict[str, str]:
    """Returns scontrol's fields of a job that has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        fields = dict(re.findall(r"(\w+)=(\S*)", cluster.run("scontrol", "show", "job", "--oneliner", job)))
        if fields["JobState"] in ENDED:
            return fields
        time.sleep(0.5)
    raise AssertionError(f"job {job} still {fields['JobState']} after {seconds} s")


def test_srun_makes_one_world(slurm_cluster: SlurmCluster) -> None:
    """Two tasks under srun are two ranks of one world, not two worlds of one."""
    said = slurm_cluster.run(
        "srun", "-N2", "--ntasks-per-node=1", "--mpi=pmix", sys.executable, "jobs/prove_horovod.py"
    )
    assert "2 ranks summed to 3" in said


def test_job_template_trains(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """`sbatch slurm/train.sbatch CONFIG key=value` trains on both nodes and leaves a summary."""
    run, log = tmp_path / "run", tmp_path / "job.out"
    job = slurm_cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={log}"),
        *("slurm/train.sbatch", "configs/quickstart.yaml", "train.steps=16", "--run-dir", str(run)),
    ).strip()
    ended = wait_for_job(slurm_cluster, job, 120)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    assert json.loads((run / "summary.json").read_text())["ranks"] == 2
