"""hvdclip submit on a real SLURM of four nodes: jobs end, stop, are put back and go on, and wrong ones are refused."""

import json
import re
import time
from pathlib import Path

import pytest
from conftest import PROJECT, SlurmCluster
from kills import HVDCLIP, read
from launch import run_ranks

from hvdclip.training import heartbeats
from hvdclip.training.rundir import METRICS, RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.ranks, pytest.mark.timeout(400)]

STEPS = 120
PACED = f"""
algorithm: {{name: celgc, lr: 0.05, gamma: 0.02, interval: 4, momentum: 0.5}}
model: paced:build
data: paced:loaders
train: {{steps: {STEPS}, loss: mse_loss, evaluate_every_steps: 80}}
checkpoint: {{every_steps: 16}}
"""


@pytest.fixture(scope="module")
def paced(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job of any pace, and a run of it that nobody disturbed, by mpirun on this machine."""
    folder = tmp_path_factory.mktemp("paced")
    (folder / "paced.yaml").write_text(PACED)
    (folder / "paced.py").write_text((PROJECT / "tests/paced.py").read_text())
    run_ranks([HVDCLIP, "train", "paced.yaml", "--run-dir", "undisturbed"], 2, cwd=folder)
    return folder


class Submitted:
    """A job that `hvdclip submit` has made of the paced configuration, on two nodes."""

    def __init__(self, cluster: SlurmCluster, folder: Path, name: str, *arguments: str, pace: float):
        self.cluster, self.folder, self.run = cluster, folder, folder / name
        said = cluster.run(
            *("env", "-C", str(folder), f"PACE={pace}", "hvdclip", "submit", "paced.yaml", *arguments),
            *("--nodes=2", "--cpus-per-task=1", f"--run-dir={self.run}"),
        )
        self.job = re.findall(r"submitted job (\d+)", said)[0]

    @property
    def _log(self) -> Path:
        return self.run / f"slurm-{self.job}.out"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self, seconds: float) -> dict[str, str]:
        return self.cluster.wait(self.job, seconds, self._log)[0]

    def until_step(self, step: int, seconds: float = 60) -> list[heartbeats.Beat]:
        deadline = time.monotonic() + seconds
        while not any(line["step"] >= step for line in RunDirectory(self.run).whole_rows(METRICS)):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)
        return heartbeats.read(self.run)

    def ends_undisturbed(self, seconds: float) -> None:
        """The job was put back at least once, and ends as if it had not been."""
        ended = self.wait(seconds)
        assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), self.log
        assert int(ended["Restarts"]) >= 1, self.log
        assert read(self.run) == read(self.folder / "undisturbed"), self.log


@pytest.mark.parametrize(("nodes", "tasks"), [(2, 1), (2, 2)])
def test_a_submitted_job_is_the_same_as_under_mpirun(slurm_cluster, tmp_path, nodes, tasks):
    small = ["model.hidden=16", "train.steps=16", "train.evaluate_every_steps=16", "data.evaluation_columns=600"]
    said = slurm_cluster.run(
        *("hvdclip", "submit", "configs/quickstart.yaml", *small, f"--nodes={nodes}", f"--ntasks-per-node={tasks}"),
        *("--cpus-per-task=1", f"--run-dir={tmp_path / 'slurm'}"),
    )
    job = re.findall(r"submitted job (\d+): on (\d) nodes", said)[0]
    assert job[1] == str(nodes)
    watched = slurm_cluster.run("hvdclip", "watch", str(tmp_path / "slurm"), "--every=0.5", timeout=90).splitlines()
    assert "done at step 16; step 16 round " in watched[-1], watched
    # a job of 16 steps may be over before the first look
    assert watched[0].startswith(f"job {job[0]}: {job[0]} ") or len(watched) == 1, watched
    run_ranks(
        [HVDCLIP, "train", "configs/quickstart.yaml", *small, "--run-dir", str(tmp_path / "mpirun")],
        nodes * tasks,
        cwd=PROJECT,
    )
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("slurm", "mpirun"))
    assert ours["exit"] == "done" and ours["ranks"] == nodes * tasks
    assert ours["final"]["valid"]["loss"] == pytest.approx(theirs["final"]["valid"]["loss"], rel=1e-5)
    if nodes * tasks == 2:  # the sum of two is the same in either order
        assert ours["model_sha256"] == theirs["model_sha256"]
    script = (tmp_path / "slurm/job.sbatch").read_text()
    assert f"#SBATCH --nodes={nodes}" in script and "git commit" in script
    assert "configs/quickstart.yaml model.hidden=16" in (tmp_path / "slurm/submitted.yaml").read_text()


def test_a_job_whose_time_is_over_is_put_back(slurm_cluster, paced):
    job = Submitted(slurm_cluster, paced, "limit", "--time=1", pace=0.4)
    job.ends_undisturbed(250)
    assert "stopped by SIGUSR2 on all 2 ranks at step" in job.log and "continues from step" in job.log


def test_a_signal_to_the_ranks_puts_the_job_back(slurm_cluster, paced):
    job = Submitted(slurm_cluster, paced, "signal", pace=0.1)
    job.until_step(24)
    slurm_cluster.run("scancel", "--signal=USR2", job.job)
    job.ends_undisturbed(120)


def test_a_job_of_more_priority_puts_it_back(slurm_cluster, paced):
    job = Submitted(slurm_cluster, paced, "preempted", "--partition=low", pace=0.1)
    job.until_step(24)
    slurm_cluster.run("srun", "--partition=high", "--nodes=4", "--exclusive", "sleep", "1", timeout=60)
    job.ends_undisturbed(120)
    assert "stopped by SIGTERM" in job.log or "stopped by SIGUSR2" in job.log, job.log


def test_a_node_that_crashes_is_replaced(slurm_cluster, paced):
    job = Submitted(slurm_cluster, paced, "crash", "comm.timeout=6", pace=0.1)
    lost = int(job.until_step(24)[1].host[-1])
    slurm_cluster.crash(lost)
    try:
        slurm_cluster.run("scontrol", "update", f"nodename={slurm_cluster.node(lost)}", "state=down", "reason=crash")
        job.ends_undisturbed(150)
    finally:
        slurm_cluster.boot(lost)


def test_a_cut_link_puts_the_job_back(slurm_cluster, paced):
    job = Submitted(slurm_cluster, paced, "link", "comm.timeout=5", pace=0.1)
    beats = job.until_step(24)
    lost = int(beats[1].host[-1])
    slurm_cluster.link(lost, "down")
    try:
        deadline = time.monotonic() + 15
        while not all(beat.ended for beat in heartbeats.read(job.run)):
            assert time.monotonic() < deadline, job.log
            time.sleep(0.1)
        slurm_cluster.run("scontrol", "update", f"nodename={slurm_cluster.node(lost)}", "state=down", "reason=cut")
        job.ends_undisturbed(150)
    finally:
        slurm_cluster.link(lost, "up")
        slurm_cluster.run("scontrol", "update", f"nodename={slurm_cluster.node(lost)}", "state=resume")


def test_it_is_not_put_back_for_ever_nor_without_scontrol(slurm_cluster, paced, tmp_path):
    job = Submitted(slurm_cluster, paced, "once", "--max-requeues=0", pace=0.1)
    job.until_step(24)
    slurm_cluster.run("scancel", "--signal=USR2", job.job)
    ended = job.wait(60)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0")
    assert "not started again: it has been 0 times already" in job.log
    # a site whose nodes have no scontrol
    (tmp_path / "none.env").write_text(
        'scontrol() { false; }; unset -f scontrol\ncommand() { [[ $2 != scontrol ]] && builtin command "$@"; }\n'
    )
    chained = Submitted(slurm_cluster, paced, "chain", f"--site={tmp_path / 'none.env'}", pace=0.1)
    chained.until_step(24)
    slurm_cluster.run("scancel", "--signal=USR2", chained.job)
    chained.wait(60)
    following = re.findall(r"hvdclip: continues as job (\d+)", chained.log)[0]
    assert following != chained.job
    slurm_cluster.wait(following, 90)
    assert json.loads((chained.run / "summary.json").read_text())["exit"] == "done", chained.log
    assert f"job {following}: not in the queue" in slurm_cluster.run("hvdclip", "status", str(chained.run))
    assert read(chained.run) == read(paced / "undisturbed")


def test_a_task_of_an_array_is_put_back_alone(slurm_cluster, paced):
    """The last task, which has the array's own number, while the other one goes on."""
    folder = paced / "array"
    said = slurm_cluster.run(
        *("env", "-C", str(paced), "PACE=0.1", "hvdclip", "submit", "paced.yaml", "train.seed=1,2", "--array"),
        *("--cpus-per-task=1", f"--run-dir={folder}"),
    )
    job = re.findall(r"submitted job (\d+)", said)[0]
    first, last = folder / "0-seed=1", folder / "1-seed=2"
    deadline = time.monotonic() + 60
    while not all(any(line["step"] >= 24 for line in RunDirectory(run).whole_rows(METRICS)) for run in (first, last)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    slurm_cluster.run("scancel", "--signal=USR2", f"{job}_1")
    while not all(RunDirectory(run).is_done() for run in (first, last)):
        assert time.monotonic() < deadline + 60, (folder / f"slurm-{job}_1.out").read_text()
        time.sleep(0.5)
    assert "started again 1 times" in (folder / f"slurm-{job}_1.out").read_text()
    log = (folder / f"slurm-{job}_0.out").read_text()
    assert log.count("started again") == 1 and "CANCELLED" not in log, log
