"""hvdclip train --elastic under an elastic horovodrun: ranks die and are added, and training goes on."""

import copy
import json
import os
import signal
import socket
import time
from contextlib import suppress

import pytest
from click.testing import CliRunner
from kills import HVDCLIP, LANGUAGE, PROJECT
from launch import BIN, Launch
from psutil import Process

import hvdclip
from hvdclip.checkpoints.store import Store
from hvdclip.cli import main
from hvdclip.config import load
from hvdclip.simulation.run import Memory
from hvdclip.training import heartbeats
from hvdclip.training.checkpointing import Checkpoints
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.training.rundir import METRICS, RunDirectory
from hvdclip.training.state import restore_elsewhere, state_of

CELGC = ["algorithm.name=celgc", "algorithm.gamma=0.1", "algorithm.interval=4"]
BOUND = 120.0


class Elastic:
    """An elastic job whose hosts are lines of a file; all are names of this machine."""

    def __init__(self, folder, arguments, hosts, ranks):
        self.run, self._hosts = folder / "run", folder / "hosts"
        self.hosts = hosts
        script = folder / "discover.sh"
        script.write_text(f"#!/bin/sh\ncat {self._hosts}\n")
        script.chmod(0o755)
        command = [str(BIN / "horovodrun"), "-np", str(ranks), "--min-np", "1", "--max-np", "4"]
        command += ["--gloo-timeout-seconds", "20", "--host-discovery-script", str(script)]
        command += [HVDCLIP, "train", *arguments, "--run-dir", str(self.run), "--elastic"]
        self.launch = Launch(command, 1, "alone", cwd=PROJECT)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.launch.__exit__(*error)

    @property
    def hosts(self):
        return self._hosts.read_text().splitlines()

    @hosts.setter
    def hosts(self, lines):
        part = self._hosts.with_suffix(".part")
        part.write_text("\n".join(lines) + "\n")
        part.rename(self._hosts)

    def lines(self):
        return list(RunDirectory(self.run).whole_rows(METRICS))

    def until(self, condition):
        deadline = time.monotonic() + BOUND
        while not condition():
            assert self.launch.process.poll() is None and time.monotonic() < deadline, "it has not come so far"
            time.sleep(0.05)

    def until_step(self, step, ranks):
        self.until(lambda: any(line["step"] >= step and line["ranks"] == ranks for line in self.lines()[-1:]))

    def kill(self, host):
        """Kill the rank on a host that has one; its number."""
        beats = heartbeats.read(self.run)
        rank, pid = next((b.rank, b.pid) for b in beats if Process(b.pid).environ()["HOROVOD_HOSTNAME"] == host)
        os.kill(pid, signal.SIGKILL)
        return rank


def number_of_ranks(lines):
    """(ranks, first step, last step) of each stretch of lines with equally many ranks."""
    stretches = []
    for line in lines:
        if not stretches or stretches[-1][0] != line["ranks"]:
            stretches.append([line["ranks"], line["step"], line["step"]])
        stretches[-1][2] = line["step"]
    return stretches


class Until(Checkpoints):
    """Ends training after a step and keeps the state."""

    def __init__(self, step):
        self.step, self.state = step, None

    def after_round(self, trainer):
        if trainer.optimizer.steps == self.step:
            self.state = state_of(trainer)
            raise StopIteration


def in_one_process(config, stretches):
    """The metrics and evaluations of the same run by simulated ranks."""
    state, lines, rows = None, [], []
    for ranks, _, last in stretches:

        def one(comm, last=last, state=state):
            trainer, memory, until = Trainer(Job(config, comm)), Memory(), Until(last)
            if state is not None:
                restore_elsewhere(trainer, copy.deepcopy(state))
            with suppress(StopIteration):
                trainer.train(memory, Silent(), until)
            return until.state, memory.lines, memory.rows

        state, more, evaluated = hvdclip.simulate(one, ranks)[0]
        lines, rows = lines + more, rows + evaluated
    return lines, rows


@pytest.mark.ranks
def test_ranks_die_and_are_added_and_no_round_is_lost(tmp_path):
    arguments = [*LANGUAGE, *CELGC, "train.steps=1600", "train.evaluate_every_steps=400", "checkpoint.every_steps=200"]
    with Elastic(tmp_path, arguments, ["127.0.0.1:1", "localhost:2"], 3) as job:
        job.until_step(100, ranks=3)
        killed = job.kill("127.0.0.1")
        job.until_step(300, ranks=2)
        job.hosts = [*job.hosts, f"{socket.gethostname()}:1"]
        said = job.launch.finish(BOUND)
    lines = job.lines()
    stretches = number_of_ranks(lines)
    assert [ranks for ranks, *_ in stretches] == [3, 2, 3]
    assert [line["step"] for line in lines] == list(range(4, 1601, 4)), "no gap, and none twice"
    text = said.stdout + said.stderr
    assert f"died: rank {killed} on {socket.gethostname()} was killed or its node lost" in text
    assert f"continues from step {stretches[1][1] - 4}" in text
    assert "lost the others at step" in text and "failed" not in text, "hosts that change are no failure"
    rows = [json.loads(line) for line in (job.run / "evals.jsonl").read_text().splitlines()]
    ours, evaluated = in_one_process(load(PROJECT / arguments[0], arguments[1:]), stretches)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in ours], rel=5e-3)
    assert [(row["step"], row["split"]) for row in rows][3:] == [(1600, "valid"), (1600, "test")]
    # sums in another order grow apart slowly
    assert [row["loss"] for row in rows[:-1]] == pytest.approx([row["loss"] for row in evaluated], rel=1e-2)
    summary = json.loads((job.run / "summary.json").read_text())
    assert (summary["exit"], summary["ranks"]) == ("done", 3)
    assert Store(job.run / "checkpoints").newest() == 1400


@pytest.mark.ranks
@pytest.mark.parametrize("allowed", [False, True])
def test_what_each_rank_keeps_is_refused_or_begun_anew(tmp_path, allowed):
    scaffold = ["algorithm.name=scaffold", "algorithm.interval=4", "train.steps=1200"]
    arguments = [*LANGUAGE, *scaffold, *(["checkpoint.other_ranks=reset"] if allowed else [])]
    with Elastic(tmp_path, arguments, ["127.0.0.1:1", "localhost:1"], 2) as job:
        if allowed:
            job.until_step(100, ranks=2)
            job.kill("localhost")
        said = job.launch.finish(BOUND, check=allowed)
    text = said.stdout + said.stderr
    if allowed:
        assert [ranks for ranks, *_ in number_of_ranks(job.lines())] == [2, 1]
        assert json.loads((job.run / "summary.json").read_text())["exit"] == "done"
    else:
        assert said.returncode != 0
        assert "each rank of scaffold keeps" in text and "checkpoint.other_ranks: reset" in text
        assert not job.run.exists()


@pytest.mark.ranks
def test_a_stop_is_saved_and_resumed(tmp_path):
    arguments = [*LANGUAGE, *CELGC, "train.steps=4000"]
    with Elastic(tmp_path, arguments, ["127.0.0.1:1", "localhost:1"], 2) as job:
        job.until_step(100, ranks=2)
        (job.run / "STOP").touch()
        said = job.launch.finish(BOUND, check=False)
    assert "stopped by the file STOP at step" in said.stdout + said.stderr
    stopped = job.lines()[-1]["step"]
    with Elastic(tmp_path, [*arguments, "--resume", "train.steps=600"], ["127.0.0.1:1", "localhost:1"], 2) as job:
        said = job.launch.finish(BOUND)
    assert f"continues from step {stopped}" in said.stdout
    lines = job.lines()
    assert [line["step"] for line in lines] == list(range(4, 601, 4))


def test_other_launchers_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("HOROVOD_ELASTIC", raising=False)
    refused = CliRunner().invoke(main, ["train", "configs/quickstart.yaml", "--elastic"])
    assert refused.exit_code == 2
    assert "--elastic needs a launcher that discovers hosts: horovodrun --min-np" in refused.output
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    refused = CliRunner().invoke(main, ["train", "configs/quickstart.yaml", "comm.backend=mpi4py", "--elastic"])
    assert refused.exit_code == 2
    assert "comm.backend is 'mpi4py'; allowed with --elastic: horovod" in refused.output
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    refused = CliRunner().invoke(main, ["train", "configs/quickstart.yaml", "algorithm.node_interval=2", "--elastic"])
    assert refused.exit_code == 2
    assert "algorithm.node_interval is 2; allowed with --elastic: none" in refused.output
