"""When a run is saved, and what of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import yaml

from hvdclip.checkpoints.copies import on_host
from hvdclip.checkpoints.writer import Contents, Writer
from hvdclip.config import Config
from hvdclip.methods import Method
from hvdclip.training.provenance import versions
from hvdclip.training.recorder import Recorder
from hvdclip.training.rundir import CONFIG, RunDirectory
from hvdclip.training.state import state_of

if TYPE_CHECKING:
    from hvdclip.training.loop import Trainer

MODEL, BEST = "model.pt", "best.pt"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.pt"


class Checkpoints:
    """The checkpoints of a run that is not saved: none."""

    due = False

    def after_step(self, optimizer: Method) -> None: ...
    def after_round(self, trainer: Trainer) -> None: ...
    def save(self, trainer: Trainer, wait: bool = False) -> None: ...
    def finish(self) -> None: ...

    def meet_change(self) -> None:
        """End training here if a rank has asked for other ranks, after what has been saved is on the disk."""

    def totals(self) -> dict[str, Any]:
        return {}


class FileCheckpoints(Checkpoints):
    """A rank's part in the checkpoints of a run directory; `due` says that one is to be taken when the round ends."""

    def __init__(self, config: Config, run: RunDirectory, recorder: Recorder, writer: Writer):
        self.settings, self.resolved = config.checkpoint, config.resolved
        self.run, self.recorder, self.writer = run, recorder, writer
        self.pause = 0.0
        self._saved_at, self._asked = time.monotonic(), False

    def after_step(self, optimizer: Method) -> None:
        every, minutes = self.settings.every_steps, self.settings.every_minutes
        self.due |= every is not None and optimizer.steps % every == 0
        if minutes is None or self._asked or self.writer.comm.rank > 0:
            return
        if time.monotonic() - self._saved_at >= 60 * minutes:
            # rank 0's clock; the round's message sends the decision to all
            optimizer.statistics.ask("save")
            self._asked = True

    def save(self, trainer: Trainer, wait: bool = False) -> None:
        """Copy the state at the end of a round and write it in the background; with `wait`, until it is on the disk.

        All ranks must call it.
        """
        start, rank, optimizer = time.perf_counter(), self.writer.comm.rank, trainer.optimizer
        self.writer.settle()
        with optimizer.averaged():
            model = on_host(trainer.model.state_dict()) if rank == 0 else None
        contents = Contents(optimizer.steps, optimizer.rounds, {rank_file(rank): state_of(trainer)})
        if rank == 0:
            contents.tensors = {MODEL: model, **contents.tensors}
            contents.texts = {CONFIG: yaml.safe_dump(self.resolved, sort_keys=False)}
            best = self.run.model_file("best")
            contents.links = {BEST: best} if best.exists() else {}
            contents.lines, contents.versions = self.recorder.sizes(), versions()
        self.writer.start(contents)
        self.pause += time.perf_counter() - start
        self.due, self._asked, self._saved_at = False, False, time.monotonic()
        if wait:
            self.finish()

    def finish(self) -> None:
        """Wait until everything is on the disk; all ranks must call it."""
        self.writer.finish()

    def totals(self) -> dict[str, Any]:
        """How many were saved and how many failed, and the seconds that training waited for them."""
        counts = {"saved": self.writer.saved, "failed": self.writer.failed, "seconds": self.pause}
        return {"checkpoints": counts}
