"""Jobs on a real SLURM of two nodes: one world of ranks, and the job template."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from conftest import SlurmCluster

from hvdclip.training import heartbeats
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.status import status

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.ranks]


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
    ended = slurm_cluster.wait(job, 120)[0]
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    assert json.loads((run / "summary.json").read_text())["ranks"] == 2


def submit_endless(cluster: SlurmCluster, folder: Path, *arguments: str) -> tuple[str, list[heartbeats.Beat]]:
    """Submits a run by the template that does not end by itself; its job, and its ranks' beats once they train."""
    job = cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"),
        *(
            "--export=ALL,HVDCLIP_MAX_REQUEUES=0",
            f"--output={folder}/job.out",
            "slurm/train.sbatch",
            "configs/quadratics.yaml",
            "train.steps=10000000",
        ),
        *("train.evaluate_every_steps=10000000", *arguments, "--run-dir", str(folder / "run")),
    ).strip()
    deadline = time.monotonic() + 60
    while len(beats := heartbeats.read(folder / "run")) < 2 or not all(beat.step for beat in beats):
        assert time.monotonic() < deadline, (folder / "job.out").read_text()
        time.sleep(0.1)
    return job, beats


def test_a_killed_rank_ends_the_job_and_is_named(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """srun --kill-on-bad-exit ends the other rank, and the heartbeats tell the two nodes apart."""
    job, beats = submit_endless(slurm_cluster, tmp_path)
    slurm_cluster.on_node(2, "kill", "-9", str(beats[1].pid))
    assert slurm_cluster.wait(job, 30)[0]["JobState"] == "FAILED"
    said = status(RunDirectory(tmp_path / "run")).text
    assert re.match(rf"died: .*rank 1 on {beats[1].host}.* killed or .* lost; last seen at step \d+", said), said


def test_a_signal_to_the_job_stops_it_cleanly(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """As `sbatch --signal=USR2@120` has it, some time before the time limit."""
    job, _ = submit_endless(slurm_cluster, tmp_path)
    slurm_cluster.run("scancel", "--signal=USR2", job)
    ended = slurm_cluster.wait(job, 30)[0]
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0"), (tmp_path / "job.out").read_text()
    found = status(RunDirectory(tmp_path / "run"))
    assert found.requeue and found.text.startswith("stopped by SIGUSR2 on all 2 ranks at step ")


def test_a_cut_link_ends_both_ranks_within_the_timeout(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """No process dies and no connection breaks: only the watch notices."""
    job, _ = submit_endless(slurm_cluster, tmp_path, "comm.timeout=4")
    slurm_cluster.link(2, "down")
    try:
        deadline = time.monotonic() + 14
        while not all(beat.ended for beat in heartbeats.read(tmp_path / "run")):
            assert time.monotonic() < deadline, (tmp_path / "job.out").read_text()
            time.sleep(0.1)
    finally:
        slurm_cluster.link(2, "up")
    assert slurm_cluster.wait(job, 60)[0]["JobState"] in ("FAILED", "CANCELLED", "NODE_FAIL")
    words = [beat.ended or "" for beat in heartbeats.read(tmp_path / "run")]
    assert all(re.match(r"lost: waited [45] s in the average of round \d+", word) for word in words), words
    assert status(RunDirectory(tmp_path / "run")).state == "died"
