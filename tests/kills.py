"""Runs on real ranks, one of which is killed at a random moment, resumed and held against a run left alone."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms import ALGORITHMS, settings_of
from launch import HVDCLIP, Launch

from hvdclip.training import heartbeats
from hvdclip.training.rundir import EVALS, METRICS, RunDirectory

PROJECT = Path(__file__).parent.parent
TIMES = ("comm_s", "round_s", "waiting_s", "slowest")
TOTALS = ("model_sha256", "rounds", "collectives", "bytes", "samples", "step", "epoch", "final", "best", "exit")
BOUND = 150.0  # seconds that a run may take

# What an algorithm is given beside its name and lr, on the language model and on the problem, as arguments.
SETTINGS: dict[str, list[str]] = {
    name: [f"{key}={value}" for key, value in settings_of(name, row.killed, interval=4).items()]
    for name, row in ALGORITHMS.items()
}
# What they train on: a language model with dropout and a hidden state, or noisy quadratics, which start sooner.
LANGUAGE = [
    *("configs/quickstart.yaml", "model.embedding=8", "model.hidden=16", "model.dropout=0.1", "data.batch=4"),
    *("data.bptt=16", "data.evaluation_columns=600", "train.steps=240", "train.evaluate_every_steps=80"),
    *("checkpoint.every_steps=40", "algorithm=null", "algorithm.lr=0.1"),
]
PROBLEM = [
    *("configs/quadratics.yaml", "data.dimension=40", "train.steps=1200", "train.evaluate_every_steps=200"),
    *("checkpoint.every_steps=40", "algorithm=null", "algorithm.lr=0.001"),
]
BILEVEL = [
    *("configs/bilevel_cosh.yaml", "train.steps=360", "train.evaluate_every_steps=120"),
    *("checkpoint.every_steps=40", "algorithm.lr=0.05", "algorithm.estimator=linear"),
]


@dataclass
class Job:
    """What is trained, on how many ranks."""

    algorithm: str
    on: Sequence[str]
    ranks: int = 2
    launcher: str = "mpirun"
    more: Sequence[str] = ()

    @property
    def arguments(self) -> list[str]:
        settings = [f"algorithm.{setting}" for setting in (f"name={self.algorithm}", *SETTINGS.get(self.algorithm, ()))]
        return [*self.on, *settings, *self.more]

    def start(self, run: Path, *options: str) -> Launch:
        command = [HVDCLIP, "train", *self.arguments, "--run-dir", str(run), *options]
        return Launch(command, self.ranks, self.launcher, cwd=PROJECT, warm=True)

    def train(self, run: Path, *options: str) -> str:
        """Trains to the end; what was said."""
        with self.start(run, *options) as launch:
            done = launch.finish(BOUND)
        return done.stdout + done.stderr

    def kill(self, run: Path, rank: int, when: Callable[[], bool]) -> None:
        """Trains until there is a checkpoint and `when()` holds, and kills the rank."""
        with self.start(run) as launch:
            deadline = time.monotonic() + BOUND
            while not (RunDirectory(run).checkpoints.newest() and when()):
                assert launch.process.poll() is None and time.monotonic() < deadline, "it has not come so far"
                time.sleep(0.001)
            beat = heartbeats.of_rank(run, rank)
            assert beat is not None
            os.kill(beat.pid, signal.SIGKILL)
            done = launch.finish(BOUND, check=False)
        assert done.returncode != 0, "it was killed too late"


def has_come_to(share: float, run: Path, whole: Path) -> Callable[[], bool]:
    """Whether a run has written that share of the lines of a whole one."""
    enough = share * (whole / METRICS).stat().st_size
    return lambda: (run / METRICS).exists() and (run / METRICS).stat().st_size >= enough


def read(run: Path) -> dict[str, Any]:
    """What two runs must have alike: lines but for their times, evaluations, totals."""
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "evaluations": (run / EVALS).read_text(),
        **{key: summary[key] for key in TOTALS},
    }
