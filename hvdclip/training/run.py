"""A run of the train command on this rank: found or started, trained, and left in its directory."""

from __future__ import annotations

from hvdclip.checkpoints.writer import Writer
from hvdclip.comm import Communicator
from hvdclip.command.exits import complain, together
from hvdclip.config import Config
from hvdclip.hosts.preflight import preflight
from hvdclip.hosts.staging import stage
from hvdclip.training import resume
from hvdclip.training.checkpointing import FileCheckpoints
from hvdclip.training.display import Display, Silent
from hvdclip.training.job import Job
from hvdclip.training.loggers import Begun, Loggers
from hvdclip.training.loop import Trainer
from hvdclip.training.recorder import FileRecorder, Recorder
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.watch import Watch


class Run:
    """What is trained and where; a run in the directory is replaced or resumed, if one of these is requested."""

    def __init__(self, config: Config, directory: RunDirectory, overwrite: bool = False, resumed: bool = False):
        self.config, self.directory = config, directory
        self.overwrite, self.resumed = overwrite, resumed

    def train(self, comm: Communicator, watch: Watch) -> None:
        """Train to the end; do nothing if the run is finished already. All ranks must call it."""
        with watch:
            self._agree_on_name(comm)
            found = self._find(comm)
            if found is None:
                return
            together(comm, lambda: preflight(self.config, comm))
            config = together(comm, lambda: stage(self.config, comm))  # it returns when every node has its copy
            job = together(comm, lambda: Job(config, comm))
            trainer = together(comm, lambda: Trainer(job))
            together(comm, lambda: self._load(trainer, found))
            together(comm, lambda: self._prepare(found) if comm.rank == 0 else None)
            recorder, display = self._recorder(trainer) if comm.rank == 0 else (Recorder(), Silent())
            writer = Writer(self.directory.checkpoints, comm, self.config.checkpoint.keep, complain)
            watch.follow(self.directory.path, trainer.optimizer)
            trainer.train(recorder, display, self._checkpoints(recorder, writer), watch)
            display.say(f"run directory: {self.directory.path}")

    def _agree_on_name(self, comm: Communicator) -> None:
        name = comm.gather(str(self.directory.path))[0]  # it may contain a time
        if name != str(self.directory.path):
            self.directory = RunDirectory(name)

    def _find(self, comm: Communicator) -> resume.Found | None:
        """What the run is to continue from; None if it is finished."""
        if not self.resumed:
            return resume.Found()
        run = self.directory
        seen = together(comm, lambda: resume.look(run, self.config) if comm.rank == 0 else None)
        steps = comm.gather(seen)[0]
        if steps is None:
            if comm.rank == 0:
                print(f"{run.path} has a finished run")
            return None
        found = together(comm, lambda: resume.find(run, steps, comm))
        together(comm, lambda: resume.check_config(run, found, self.config))
        if comm.rank == 0:
            print(*found.report_lines(run, comm.size), sep="\n")
        return found

    def _load(self, trainer: Trainer, found: resume.Found) -> None:
        resume.load(trainer, self.directory, found)

    def _prepare(self, found: resume.Found) -> None:
        """Rank 0's part."""
        resume.prepare(self.directory, found, self.overwrite or self.resumed)

    def _recorder(self, trainer: Trainer) -> tuple[Recorder, Silent]:
        self.directory.write_config(self.config.as_yaml())
        step = trainer.optimizer.steps or None
        loggers = Loggers(Begun(self.directory, self.config, step), self.config.log, complain)
        return FileRecorder(self.directory, loggers, complain), Display()

    def _checkpoints(self, recorder: Recorder, writer: Writer) -> FileCheckpoints:
        return FileCheckpoints(self.config, self.directory, recorder, writer)
