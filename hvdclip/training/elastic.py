"""An elastic run: when ranks have gone or come it continues from its last round, which every rank has in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hvdclip.checkpoints.writer import Writer
from hvdclip.comm import Communicator
from hvdclip.command.exits import together
from hvdclip.config import Config
from hvdclip.methods import Method
from hvdclip.training import heartbeats
from hvdclip.training.checkpointing import FileCheckpoints
from hvdclip.training.recorder import Recorder
from hvdclip.training.resume import Found
from hvdclip.training.run import Run
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.state import State, check_elsewhere, restore_elsewhere, state_of
from hvdclip.training.watch import Watch

if TYPE_CHECKING:
    from hvdclip.training.loop import Trainer


class Hosts(Protocol):
    """What the launcher reports of its hosts; meet_change() raises what restarts training on the ranks that exist."""

    changed: bool

    def meet_change(self) -> None: ...


class LastRound:
    """The state at the end of a rank's last round, and the last line of the metrics."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.line: dict[str, Any] | None = None
        self._attempts = 0

    @property
    def step(self) -> int:
        return 0 if self.state is None else self.state["optimizer"]["hvdclip"]["steps"]

    def take(self, trainer: Trainer) -> None:
        self.state, self.line = state_of(trainer), trainer.last_line

    def share(self, comm: Communicator) -> bool:
        """Take rank 0's state; returns whether there is one. All ranks must call it.

        RuntimeError if ranks were lost before the first round was done.
        """
        self._attempts += 1
        packed = io.BytesIO()
        torch.save((self.state, self.line), packed)
        mine = self._attempts, self.state is not None, packed.tell()
        attempts, whole, sizes = zip(*comm.gather(mine), strict=True)
        if not whole[0]:
            if max(attempts) > 1:
                raise RuntimeError("ranks were lost before the first round was done: there is nothing to continue from")
            return False
        message = torch.zeros(sizes[0], dtype=torch.uint8)
        if comm.rank == 0:
            message.copy_(torch.frombuffer(packed.getbuffer(), dtype=torch.uint8))
        comm.broadcast_([message])
        self.state, self.line = torch.load(io.BytesIO(message.numpy().tobytes()), weights_only=True)
        return True


class ElasticRun(Run):
    """A run that is trained again and again, each time on other ranks; `hosts` reports their change."""

    hosts: Hosts

    def __init__(self, config: Config, directory: RunDirectory, overwrite: bool = False, resumed: bool = False):
        super().__init__(config, directory, overwrite, resumed)
        self.last, self._goes_on = LastRound(), False
        self.watch: Watch | None = None  # of the current attempt
        self._writer: Writer | None = None

    def train(self, comm: Communicator, watch: Watch) -> None:
        try:
            super().train(comm, watch)
        finally:
            if self._writer is not None:
                self._writer.abandon()  # it may wait for ranks that are gone

    def _find(self, comm: Communicator) -> Found | None:
        self._goes_on = together(comm, lambda: self.last.share(comm))
        if not self._goes_on:
            return super()._find(comm)
        if comm.rank == 0:
            if gone := heartbeats.how_it_ended(self.directory.path):
                print(gone)
            print(f"{self.directory.path} continues from step {self.last.step}")
        return Found()

    def _load(self, trainer: Trainer, found: Found) -> None:
        check_elsewhere(trainer)
        if self._goes_on:
            assert self.last.state is not None
            restore_elsewhere(trainer, self.last.state)
        else:
            super()._load(trainer, found)

    def _prepare(self, found: Found) -> None:
        if not self._goes_on:
            super()._prepare(found)
            return
        assert self.last.state is not None
        # a rank 0 that is gone may have written more, or less, than the ranks agreed on
        self.directory.claim()
        self.directory.checkpoints.discard_parts()
        self.directory.go_back_to(self.last.step, self.last.line, self.last.state["evaluations"])

    def _checkpoints(self, recorder: Recorder, writer: Writer) -> FileCheckpoints:
        self._writer = writer
        return ElasticCheckpoints(self, recorder, writer)


class ElasticCheckpoints(FileCheckpoints):
    """The checkpoints on the disk, and the last round in memory."""

    def __init__(self, run: ElasticRun, recorder: Recorder, writer: Writer):
        super().__init__(run.config, run.directory, recorder, writer)
        self.last, self.hosts = run.last, run.hosts

    def after_step(self, optimizer: Method) -> None:
        super().after_step(optimizer)
        if self.hosts.changed:
            optimizer.statistics.ask("resize")

    def after_round(self, trainer: Trainer) -> None:
        self.last.take(trainer)

    def meet_change(self) -> None:
        self.finish()
        self.hosts.meet_change()
