"""A submission: configurations are checked, written into their run directories with the script, and sent to SLURM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from hvdclip import __version__
from hvdclip.checkpoints import durable
from hvdclip.command.start import load
from hvdclip.launch import slurm, sweep
from hvdclip.launch.script import SCRIPT, SUBMITTED, Resources, SlurmJob, commit
from hvdclip.launch.submitted import note, submitted
from hvdclip.training.rundir import RunDirectory

if TYPE_CHECKING:
    from hvdclip.config import Config


@dataclass(frozen=True)
class Submission:
    """A job and the configuration of each of its runs."""

    job: SlurmJob
    configs: Sequence[Config]

    @property
    def folders(self) -> list[Path]:
        return [self.job.folder / run for run in self.job.runs] or [self.job.folder]

    def submit(self) -> str:
        """Write the script and the configurations, and submit a job of them; returns its number.

        ValueError if SLURM does not take it, FileExistsError if a run is running or finished.
        """
        from hvdclip.training import resume  # which takes torch

        for folder, config in zip(self.folders, self.configs, strict=True):
            before = submitted(folder)
            if before is not None and slurm.state(before.job):
                raise FileExistsError(f"{folder} has job {before.job} in the queue: hvdclip cancel it first")
            if resume.look(RunDirectory(folder), config) is None:
                raise FileExistsError(f"{folder} has a finished run: choose another --run-dir")
        text = self.job.script()
        with NamedTemporaryFile("w", suffix=SCRIPT) as draft:
            draft.write(text)
            draft.flush()
            slurm.check(Path(draft.name))
        for folder, config in zip(self.folders, self.configs, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            durable.write_text(folder / SUBMITTED, "\n".join([*self.job.heading(), config.as_yaml()]))
        script = self.job.folder / SCRIPT
        durable.write_text(script, text)
        number = slurm.submit(script)
        note(self.job.folder, number, self.job.runs)
        for place, run in enumerate(self.job.runs):
            note(self.job.folder / run, f"{number}_{place}")
        return number


def plan(
    config: Path,
    overrides: Sequence[str],
    folder: Path,
    resources: Resources,
    *,
    array: bool = False,
    at_once: int = 0,
    site: str | None = None,
    max_requeues: int | None = None,
) -> SlurmJob:
    """The job that would train a configuration; its settings are not read, since that takes torch."""
    if "\n" in str(folder):
        raise ValueError(f"--run-dir is {str(folder)!r}; allowed: a name of one line")
    line = " ".join([str(config), *overrides]).replace("\n", " ")
    title = f"Written by hvdclip submit {__version__}, {commit()}\nfor {line}"
    job = SlurmJob(folder.absolute(), resources, title, site, max_requeues)
    return replace(job, runs=list(sweep.names(sweep.grid(overrides))), at_once=at_once) if array else job


def check(job: SlurmJob, config: Path, overrides: Sequence[str]) -> Submission:
    """Check all settings of all runs of a job before SLURM is called; nothing is written."""
    runs = sweep.grid(overrides) if job.runs else [overrides]
    return Submission(job, [load(config, chosen) for chosen in runs])
