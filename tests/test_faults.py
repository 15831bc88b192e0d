"""Faults injected into runs on real ranks: kills, signals, exceptions, silence. Nothing hangs; the cause is told."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from launch import HVDCLIP, Launch, run_ranks

import hvdclip
from hvdclip.training import heartbeats
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.status import status

pytestmark = pytest.mark.ranks

PROJECT = Path(__file__).parent.parent
ENDLESS = [str(PROJECT / "configs/quadratics.yaml"), "train.steps=10000000", "train.evaluate_every_steps=10000000"]
LAUNCHERS = ["mpirun", "horovodrun-mpi", "horovodrun-gloo"]
# from the death of a process to the end of its job, in seconds
BOUND = 30


def train(run, *arguments, ranks=2, launcher="mpirun", cwd=PROJECT, **how):
    return Launch([HVDCLIP, "train", *arguments, "--run-dir", str(run)], ranks, launcher, cwd=cwd, **how)


def beats(run):
    return {beat.rank: beat for beat in heartbeats.read(run)}


def wait_until(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.05)
    return found


def under_way(run, ranks=2):
    """The ranks' last heartbeats, once all of them have taken steps."""

    def all_step():
        found = beats(run)
        return found if len(found) == ranks and all(beat.step > 0 for beat in found.values()) else None

    return wait_until(all_step)


def read(run):
    return json.loads((run / "summary.json").read_text())


# deaths


@pytest.mark.parametrize(
    ("launcher", "victim"),
    [("mpirun", 0), ("mpirun", 1), ("horovodrun-mpi", 1), ("horovodrun-gloo", 0), ("horovodrun-gloo", 1)],
)
def test_a_killed_rank_ends_the_job_and_is_named_by_status_and_the_next_attempt(tmp_path, launcher, victim):
    run = tmp_path / "run"
    with train(run, *ENDLESS, launcher=launcher) as job:
        found = under_way(run)
        os.kill(found[victim].pid, signal.SIGKILL)
        done = job.finish(BOUND, check=False)
    assert done.returncode != 0
    said = status(RunDirectory(run)).text
    died = rf"died: rank {victim} on \S+ was killed or its node lost; last seen at step \d+"
    assert re.fullmatch(died + "; no checkpoint to resume from", said)


def test_a_killed_run_is_requeued_and_the_next_attempt_says_how_the_last_one_died(tmp_path):
    run, more = tmp_path / "run", ["checkpoint.every_steps=40"]
    with train(run, *ENDLESS, *more, warm=True) as job:
        found = under_way(run)
        wait_until(lambda: RunDirectory(run).checkpoints.newest())
        os.kill(found[1].pid, signal.SIGKILL)
        job.finish(BOUND, check=False)
    done = run_ranks([HVDCLIP, "status", "--requeue", str(run)], 1, "alone")
    saved = re.fullmatch(r"requeue: died: rank 1 on .* last seen at step \d+; resumable from step (\d+)\n", done.stdout)
    assert saved, done.stdout
    with train(run, *ENDLESS, *more, f"train.steps={int(saved[1]) + 8}", "--resume", warm=True) as job:
        said = job.finish(60).stdout
    assert re.search(r"the last attempt died: rank 1 on \S+ was killed or its node lost; last seen at step \d+\n", said)
    assert read(run)["exit"] == "done" and status(RunDirectory(run)).state == "done"


@pytest.mark.parametrize("asked", ["--overwrite", "--resume"])
def test_a_directory_that_a_live_run_uses_is_refused(tmp_path, asked):
    run = tmp_path / "run"
    with train(run, *ENDLESS, warm=True) as first:
        owner = under_way(run)[0]
        before = (run / "config.yaml").stat()
        with train(run, *ENDLESS, asked, warm=True) as second:
            refused = second.finish(60, check=False)
        said = refused.stderr + refused.stdout
        assert refused.returncode == 2 and said.count("hvdclip: ") == 1
        assert re.search(rf"{run} is used by a running run: rank 0 on \S+, pid {owner.pid}, since 2", said)
        assert (run / "config.yaml").stat() == before
        seen = beats(run)[1].step
        wait_until(lambda: beats(run)[1].step > seen)
        (run / "STOP").touch()
        assert first.finish(BOUND, check=False).returncode == 75


# stops


def all_ranks(job, found, signals=(signal.SIGTERM, signal.SIGTERM)):
    for beat, number in zip(found.values(), signals, strict=True):
        os.kill(beat.pid, number)


STOPS = {
    "SIGTERM on rank 1": lambda job, found: os.kill(found[1].pid, signal.SIGTERM),
    "SIGINT on rank 0": lambda job, found: os.kill(found[0].pid, signal.SIGINT),
    "SIGTERM on all 2 ranks": all_ranks,
    "SIGUSR2 on all 2 ranks": lambda job, found: job.process.send_signal(signal.SIGUSR2),  # mpirun passes it on
    "SIGUSR1 on all 2 ranks": lambda job, found: job.process.send_signal(signal.SIGUSR1),  # and this
    "SIGHUP on rank 0 and SIGXCPU on rank 1": lambda job, found: all_ranks(job, found, (signal.SIGHUP, signal.SIGXCPU)),
}


@pytest.mark.parametrize("asked", STOPS)
def test_signals_stop_all_ranks_at_the_same_step(tmp_path, asked):
    run = tmp_path / "run"
    with train(run, *ENDLESS, warm="USR" not in asked) as job:  # mpirun's own reach Pythons that it has started itself
        STOPS[asked](job, under_way(run))
        done = job.finish(BOUND, check=False)
    assert done.returncode == 75, done.stderr
    ended = beats(run)
    assert {beat.ended for beat in ended.values()} == {"stopped"} and ended[0].step == ended[1].step > 0
    assert ended[0].step % 4 == 0, "at the end of a round"
    text = f"stopped by {asked} at step {ended[0].step}"
    assert read(run)["exit"] == text and f"hvdclip: {text}" in done.stderr + done.stdout
    assert read(run)["collectives"] == read(run)["rounds"], "asking and agreeing costs none"
    assert status(RunDirectory(run)).state == "stopped"


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    run = tmp_path / "run"
    with Launch(["nohup", HVDCLIP, "train", *ENDLESS, "--run-dir", str(run)], 1, "alone", cwd=PROJECT) as job:
        pid = under_way(run, 1)[0].pid
        os.kill(pid, signal.SIGHUP)
        seen = beats(run)[0].step
        wait_until(lambda: beats(run)[0].step > seen)
        os.kill(pid, signal.SIGUSR1)
        assert job.finish(BOUND, check=False).returncode == 75
    assert read(run)["exit"].startswith("stopped by SIGUSR1 on rank 0 at step ")


def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(tmp_path):
    steps = ["train.steps=4000", "train.evaluate_every_steps=1000"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    with train(whole, *ENDLESS, *steps, warm=True) as job:
        job.finish(60)
    with train(run, *ENDLESS, *steps, warm=True) as job:
        os.kill(under_way(run)[1].pid, signal.SIGTERM)
        assert job.finish(BOUND, check=False).returncode == 75
    assert status(RunDirectory(run)).requeue and 0 < read(run)["step"] < 4000
    with train(run, *ENDLESS, *steps, "--resume", warm=True) as job:
        assert "the last attempt stopped at step" in job.finish(60).stdout
    assert read(run)["model_sha256"] == read(whole)["model_sha256"]
    evals, of_whole = ((folder / "evals.jsonl").read_text() for folder in (run, whole))
    assert evals == of_whole


@pytest.mark.parametrize(
    ("launcher", "more", "expected"),
    [("horovodrun-gloo", [], 1), ("mpirun", ["comm.backend=mpi4py"], 75), ("mpirun", ["algorithm=decentralized"], 75)],
)
def test_hvdclip_stop_works_whatever_has_started_the_run(tmp_path, launcher, more, expected):
    run = tmp_path / "run"
    if more == ["algorithm=decentralized"]:
        more = ["algorithm={name: decentralized_clip, lr: 1.0e-4, tau: 1.0}"]
    with train(run, *ENDLESS, *more, launcher=launcher, warm=True) as job:
        under_way(run)
        asked = run_ranks([HVDCLIP, "stop", str(run)], 1, "alone")
        assert "has been asked to stop" in asked.stdout
        done = job.finish(BOUND, check=False)
    assert done.returncode == expected
    ended = beats(run)
    assert read(run)["exit"] == f"stopped by the file STOP at step {ended[0].step}" and ended[0].step == ended[1].step
    assert not (run / "STOP").exists(), "honoured"


def test_a_second_interrupt_ends_at_once(tmp_path):
    """A rank that is asleep in its data never comes to the end of a round."""
    own(tmp_path, "time.sleep(3600)")
    run = tmp_path / "run"
    with train(run, "own.yaml", cwd=tmp_path) as job:
        victim = wait_until(lambda: beats(run).get(0))
        os.kill(victim.pid, signal.SIGINT)
        heard = wait_until(lambda: beats(run)[0].signal, 1)
        assert heard == "SIGINT", "at once, though the main thread waits for the other rank"
        time.sleep(1)
        assert job.process.poll() is None, "the first only asks"
        os.kill(victim.pid, signal.SIGINT)
        done = job.finish(BOUND, check=False)
    assert done.returncode == 1 and "interrupted twice: ended at once" in done.stderr + done.stdout
    assert status(RunDirectory(run)).text.startswith("failed: rank 0 on ")


def test_workers_of_training_and_evaluation_start_with_signals_held(tmp_path):
    """One that is just being forked would die of them."""
    own(tmp_path, "pass", workers=1)
    with (tmp_path / "own.py").open("a") as module:
        module.write(TELLING)
    with train(tmp_path / "run", "own.yaml", ranks=1, launcher="alone", cwd=tmp_path, warm=True) as job:
        said = job.finish(BOUND).stdout
    assert said.count("signals held: True") == 2 and "signals held: False" not in said


def test_loader_workers_leave_signals_to_their_rank(tmp_path):
    """What is sent to the whole process group, as a batch system does, is a clean stop, not a loader that fails."""
    own(tmp_path, "time.sleep(0.01)", workers=1)
    run = tmp_path / "run"
    with train(run, "own.yaml", "train.epochs=10000", ranks=1, launcher="alone", cwd=tmp_path) as job:
        under_way(run, 1)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
            os.killpg(job.process.pid, number)
        done = job.finish(BOUND, check=False)
    assert done.returncode == 75, done.stderr
    assert re.match(r"stopped by SIG\w+ on rank 0 at step \d+", read(run)["exit"])


def test_workers_that_cannot_hand_over_a_batch_are_told_of_and_a_stop_ends_the_rank(tmp_path):
    """For the sockets of torch's workers a path has 108 letters at most; torch itself then waits for ever."""
    own(tmp_path, "pass", workers=1)
    run, temporary = tmp_path / "run", tmp_path / ("long" * 25)
    temporary.mkdir()
    how = {"ranks": 1, "launcher": "alone", "cwd": tmp_path, "env": {"TMPDIR": str(temporary)}}
    with train(run, "own.yaml", **how) as job:
        pid = wait_until(lambda: (found := beats(run).get(0)) and found.state == "waiting for a batch" and found.pid)
        os.kill(pid, signal.SIGTERM)
        done = job.finish(BOUND, check=False)
    assert done.returncode == 1
    said = (
        r"waiting for a batch for 1\d s; the last line of a loader's worker: OSError: AF_UNIX path too long; "
        r"the limit is 600 s; asked to stop by SIGTERM, and ended without a checkpoint"
    )
    assert re.search(rf"hvdclip: rank 0 on host \S+: at step 1 {said}\n", done.stderr), done.stderr
    assert re.search(rf"failed: rank 0 on \S+ at step 1: {said}", status(RunDirectory(run)).text)


def test_a_rank_whose_batch_does_not_come_says_so(tmp_path):
    own(tmp_path, "time.sleep(3600)", workers=1)
    run = tmp_path / "run"
    with train(run, "own.yaml", "comm.timeout=6", cwd=tmp_path, warm=True) as job:
        done = job.finish(60, check=False)
    assert done.returncode not in (0, 75, 2)
    said = done.stderr + done.stdout
    itself = r"rank 0 on host \S+: at step 4 waiting for a batch for [67] s; the limit is 6 s"
    other = r"rank 1 on host \S+: waited \d s in the average .* late: rank 0 on \S+ at step 4, waiting for a batch"
    assert re.search(itself, said) or re.search(other, said), said


# failures

OWN = """
import time
import torch
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    def __init__(self, rank, length):
        self.rank, self.length = rank, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        inputs = torch.linspace(-1, 1, 4) * (1 + i + self.rank)
        if self.rank == {rank} and i >= {row}:
            {fault}
        return inputs, torch.tensor([float(i % 2)])


def build():
    return torch.nn.Linear(4, 1)


def loaders(rank, ranks):
    how = {{"batch_size": 2, "num_workers": {workers}}}
    return {{"train": DataLoader(Rows(rank, 24), **how), "valid": DataLoader(Rows(9, 4), **how)}}
"""
TELLING = """
import signal


class Telling(DataLoader):
    def __iter__(self):
        print("signals held:", signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return super().__iter__()


DataLoader = Telling
"""
CONFIG = """
algorithm: {name: celgc, lr: 0.01, gamma: 0.01, interval: 4}
model: own:build
data: own:loaders
train: {epochs: 1, loss: mse_loss}
"""


def own(folder, fault, rank=1, row=6, workers=0):
    """A job of 12 steps in which a statement is executed for every row from that one on, on one rank."""
    rank = 0 if workers else rank
    (folder / "own.py").write_text(OWN.format(fault=fault, rank=rank, row=row, workers=workers))
    (folder / "own.yaml").write_text(CONFIG)


@pytest.mark.parametrize(
    ("launcher", "more"), [*((launcher, []) for launcher in LAUNCHERS), ("mpirun", ["comm.backend=mpi4py"])]
)
def test_an_exception_in_the_data_is_told_first_and_ends_all(tmp_path, launcher, more):
    own(tmp_path, "raise RuntimeError('no such row')")
    run = tmp_path / "run"
    with train(run, "own.yaml", *more, launcher=launcher, cwd=tmp_path, warm=True) as job:
        done = job.finish(60, check=False)
    assert done.returncode not in (0, 75, 2)
    said = done.stderr + done.stdout
    line = re.search(r"hvdclip: rank 1 on host \S+ failed at step 4: RuntimeError: no such row", said)
    assert line and line.start() < said.index("Traceback"), said
    found = status(RunDirectory(run))
    assert re.match(r"failed: rank 1 on \S+ at step 4: RuntimeError: no such row", found.text) and not found.requeue


@pytest.mark.parametrize("fault", ["inputs = inputs * float('nan')", "inputs = inputs * 1e30"])
def test_a_rank_without_a_finite_loss_or_gradient_poisons_no_average(tmp_path, fault):
    # rows 6 and 7 are the batch of step 4, the last of the first round
    own(tmp_path, f"{fault} if i < 8 else inputs")
    raised, skipped = tmp_path / "raised", tmp_path / "skipped"
    with train(raised, "own.yaml", cwd=tmp_path, warm=True) as job:
        done = job.finish(60, check=False)
    text = "the loss, the gradient or its norm is not finite on rank 1 at step 4"
    assert done.returncode == 1 and (done.stderr + done.stdout).count(f"hvdclip: {text}") == 1
    assert read(raised)["exit"].startswith(text) and status(RunDirectory(raised)).state == "failed"
    with train(skipped, "own.yaml", "algorithm.on_nonfinite=skip", cwd=tmp_path, warm=True) as job:
        job.finish(60)
    lines = [json.loads(line) for line in (skipped / "metrics.jsonl").open()]
    assert [line["skipped"] for line in lines] == [1, 0, 0]
    assert all(p.isfinite().all() for p in torch.load(skipped / "checkpoints/final.pt", weights_only=True).values())


# silence


@pytest.mark.parametrize(
    ("launcher", "victim", "more"),
    # Horovod's launcher waits for 5 s before it kills a process, and for 5 s more before it kills that one's shell
    [("mpirun", 1, 10), ("horovodrun-gloo", 0, 20)],
)
def test_a_rank_that_is_stopped_ends_the_job_within_the_timeout(tmp_path, launcher, victim, more):
    run, timeout = tmp_path / "run", 4
    with train(run, *ENDLESS, f"comm.timeout={timeout}", launcher=launcher) as job:
        os.kill(under_way(run)[victim].pid, signal.SIGSTOP)
        done = job.finish(timeout + more, check=False)
    assert done.returncode not in (0, 75, 2)
    said = done.stderr + done.stdout
    assert re.search(
        rf"hvdclip: rank {1 - victim} on host \S+: waited [45] s in the average of round \d+ \(step \d+\) for the "
        rf"other ranks; comm.timeout is 4 s; late: rank {victim} on \S+, last seen \d s ago at step \d+",
        said,
    ), said
    assert status(RunDirectory(run)).text.startswith("died: ")


def test_a_slow_rank_is_no_fault(tmp_path):
    """Rank 1 is silent for 4 steps of 0.5 s, while rank 0 waits."""
    own(tmp_path, "time.sleep(0.25)", row=0)
    with train(tmp_path / "run", "own.yaml", "comm.timeout=3", cwd=tmp_path, warm=True) as job:
        job.finish(60)
    summary = read(tmp_path / "run")
    assert summary["exit"] == "done" and summary["comm_s"] > 4


# disagreement


def test_ranks_with_unlike_settings_are_shown_in_a_table(tmp_path):
    script = f'exec {HVDCLIP} "$@" algorithm.lr=0.$((1 + OMPI_COMM_WORLD_RANK % 2)) --run-dir {tmp_path}/run'
    command = ["bash", "-c", script, "x", "train", *ENDLESS, "algorithm.gamma=0.1"]
    done = run_ranks(command, 3, cwd=PROJECT, check=False)
    said = done.stderr + done.stdout
    assert done.returncode == 2 and "hvdclip: ranks disagree on algorithm.lr; allowed: one value for all" in said
    assert re.search(r"hvdclip:   rank  host +algorithm.lr\nhvdclip:   0, 2  \S+ +0.1\nhvdclip:   1 +\S+ +0.2\n", said)
    assert said.count("hvdclip: ") == 4 and not (tmp_path / "run").exists()


def test_ranks_with_unlike_code_are_refused(tmp_path):
    shutil.copytree(Path(hvdclip.__file__).parent, tmp_path / "other/hvdclip")
    with (tmp_path / "other/hvdclip/flat/space.py").open("a") as file:
        file.write("# changed\n")
    other = f"PYTHONPATH={tmp_path}/other"
    script = f'if [ $OMPI_COMM_WORLD_RANK = 1 ]; then export {other}; fi; exec {HVDCLIP} "$@"'
    command = ["bash", "-c", script, "x", "train", *ENDLESS, "--run-dir", str(tmp_path / "run")]
    done = run_ranks(command, 2, cwd=tmp_path, check=False, env={"PYTHONPATH": str(PROJECT)})
    said = done.stderr + done.stdout
    assert done.returncode == 2 and "ranks disagree on the code of hvdclip; allowed: one value for all" in said
    assert len(re.findall(r"hvdclip:   [01] +\S+ +[0-9a-f]{12}\n", said)) == 2 and not (tmp_path / "run").exists()
