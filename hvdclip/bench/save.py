"""What a checkpoint costs training: rounds during which one is saved, compared with rounds without."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from hvdclip.bench.blocks import Peer, measure
from hvdclip.bench.report import Report
from hvdclip.checkpoints.writer import Writer
from hvdclip.comm import Communicator
from hvdclip.command.exits import complain
from hvdclip.config import Config, check
from hvdclip.training.checkpointing import FileCheckpoints
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.training.recorder import Recorder
from hvdclip.training.rundir import RunDirectory

WITHOUT, WITH = "without a checkpoint", "with one"
INTERVAL = 8
# the quickstart's language model, and one for trying things out
MODELS: dict[str, dict[str, Any]] = {
    "quickstart": {"embedding": 64, "hidden": 256},
    "small": {"embedding": 8, "hidden": 16},
}


def job(shape: str, momentum: float) -> Config:
    """The quickstart's job; ValueError for an unknown shape."""
    if shape not in MODELS:
        raise ValueError(f"--shape is {shape!r}; allowed: {', '.join(MODELS)}")
    return check(
        {
            "algorithm": {"name": "celgc", "lr": 10.0, "gamma": 2.5, "interval": INTERVAL, "momentum": momentum},
            "model": {"name": "lstm", **MODELS[shape]},
            "data": {"name": "stdlib", "level": "byte", "batch": 16, "bptt": 64},
            "train": {"steps": 10**9},
        }
    )


def compare(config: Config, comm: Communicator, rounds: int, blocks: int, folder: Path | None) -> Report:
    """Blocks of so many rounds; those with a checkpoint start it first, and end when it is on the disk."""
    place = Path(comm.gather(tempfile.mkdtemp(dir=folder) if comm.rank == 0 else "", "bench")[0])
    try:
        saving = _Saving(config, comm, INTERVAL * rounds, place)
        peers = [Peer(WITHOUT, saving.train, steps=rounds), Peer(WITH, saving.train_and_save, steps=rounds)]
        measured = measure(peers, comm, blocks)
        more = {WITHOUT: {}, WITH: saving.found()}
    finally:
        if comm.rank == 0:
            shutil.rmtree(place, ignore_errors=True)
    floats = saving.trainer.optimizer.space.size
    title = f"rounds of {INTERVAL} steps of an LSTM with {floats:,} floats on {comm.size} ranks, saved every {rounds}"
    held = {"to without": lambda name: WITHOUT}
    return Report(title, measured, held, {}, more, {"pause_ms": ".3g", "megabytes": ".3g"})


class _Saving:
    """A trainer that continues without end, and its checkpoints."""

    def __init__(self, config: Config, comm: Communicator, steps: int, place: Path):
        self.comm, self.steps = comm, steps
        self.trainer = Trainer(Job(config, comm))
        self.trainer.model.train()
        self.run = RunDirectory(place)
        self.writer = Writer(self.run.checkpoints, comm, 1, complain)
        self.checkpoints = FileCheckpoints(config, self.run, Recorder(), self.writer)
        self.pauses: list[float] = []

    def train(self) -> None:
        for _ in range(self.steps):
            self.trainer.step()

    def train_and_save(self) -> None:
        before = self.checkpoints.pause
        self.checkpoints.save(self.trainer)
        self.pauses.append(self.checkpoints.pause - before)
        self.train()
        self.writer.settle()

    def found(self) -> dict[str, Any]:
        """The median time for which training pauses, on the slowest rank, and the size of a checkpoint."""
        store = self.run.checkpoints
        size = sum(size for size, _ in store.manifest(store.steps()[0]).files.values())
        # the last meeting of the ranks: afterwards rank 0 removes the files
        pauses = [max(of_ranks) for of_ranks in zip(*self.comm.gather(self.pauses, "bench"), strict=True)]
        return {"pause_ms": 1e3 * median(pauses[1:]), "pauses": pauses, "megabytes": size / 1e6}
