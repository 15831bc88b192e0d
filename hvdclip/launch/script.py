"""The batch script of a job: the options for SLURM, then a call of the functions in slurm/job.sh."""

from __future__ import annotations

import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdclip import project

SUBMITTED, SCRIPT = "submitted.yaml", "job.sbatch"
# The ranks are asked to stop so many seconds before the time is over, or when a quarter is left, if that is later.
AHEAD_S = 120
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Resources:
    """The options of a job for SLURM; None leaves one to the site. `more` are further options of sbatch."""

    nodes: int = 1
    ntasks_per_node: int | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    more: Sequence[str] = ()

    def __post_init__(self) -> None:
        tasks, gpus = self.ntasks_per_node or 1, self.gpus_per_node
        if gpus and tasks > gpus:
            raise ValueError(
                f"--ntasks-per-node is {tasks} and --gpus-per-node {gpus}, so ranks would share a GPU; allowed: up to "
                f"{gpus} tasks per node"
            )

    def options(self) -> Iterator[str]:
        ahead = AHEAD_S if self.time is None else min(AHEAD_S, seconds(self.time) // 4)
        yield f"--nodes={self.nodes}"
        for name in ("ntasks_per_node", "gpus_per_node", "cpus_per_task", "time", "partition", "account"):
            if (value := getattr(self, name)) is not None:
                yield f"--{name.replace('_', '-')}={value}"
        yield f"--signal=B:USR2@{ahead}"
        yield from self.more


@dataclass(frozen=True)
class SlurmJob:
    """A job in a folder: one run in it, or the runs of an array, `at_once` of them at a time (0: all)."""

    folder: Path
    resources: Resources
    title: str
    site: str | None = None
    max_requeues: int | None = None
    runs: Sequence[str] = ()
    at_once: int = 0

    def heading(self) -> list[str]:
        """The title as comments."""
        return [f"# {line}" for line in self.title.splitlines()]

    def script(self) -> str:
        """The text of the script; names and paths are quoted, so that the shell reads each as one word."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "#!/bin/bash"
        yield from self.heading()
        for option in self._options():
            yield f"#SBATCH {shlex.quote(option)}"
        yield ""
        yield "set -euo pipefail"
        yield f"cd {shlex.quote(str(Path.cwd()))}"
        yield f"export HVDCLIP={shlex.quote(str(Path(sysconfig.get_path('scripts')) / 'hvdclip'))}"
        if self.max_requeues is not None:
            yield f"export HVDCLIP_MAX_REQUEUES={self.max_requeues}"
        if self.site is not None:
            yield f"export HVDCLIP_SITE={shlex.quote(str(site_file(self.site)))}"
        yield f"source {shlex.quote(str(project.part('slurm/job.sh')))}"
        if self.runs:
            yield "runs=("
            yield from (f"  {shlex.quote(str(self.folder / run))}" for run in self.runs)
            yield ")"
            yield "run=${runs[SLURM_ARRAY_TASK_ID]}"
        else:
            yield f"run={shlex.quote(str(self.folder))}"
        yield f'train "$run" "$run/{SUBMITTED}"'

    def _options(self) -> Iterator[str]:
        yield "--job-name=" + re.sub(r"[^\w.=-]", "_", self.folder.name)
        if self.site is not None:
            yield from site_options(self.site)
        yield from self.resources.options()
        yield "--requeue"
        yield "--open-mode=append"
        if self.runs:
            limit = f"%{self.at_once}" if self.at_once else ""
            yield f"--array=0-{len(self.runs) - 1}{limit}"
        # a percent sign in a path would start a pattern of SLURM
        yield f"--output={self.folder}".replace("%", "%%") + ("/slurm-%A_%a.out" if self.runs else "/slurm-%j.out")


def seconds(time: str) -> int:
    """SLURM's time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]."""
    matched = TIME.fullmatch(time)
    if not matched:
        raise ValueError(f"--time is {time!r}; allowed: 30 (minutes), 01:30:00, 2-12:00:00")
    numbers = [int(number) for number in matched["clock"].split(":")]
    if matched["days"]:
        hours, minutes, rest = [*numbers, 0, 0][:3]
    else:
        hours, minutes, rest = (0, *numbers, 0)[:3] if len(numbers) < 3 else numbers
    return ((int(matched["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def site_file(site: str) -> Path:
    """The file of a site's settings; ValueError if there is none."""
    sites = project.part("slurm/sites")
    for file in (sites / f"{site}.env", Path(site)):
        if file.is_file():
            return file.absolute()
    names = ", ".join(sorted(file.stem for file in sites.glob("*.env")))
    raise ValueError(f"--site is {site!r}; allowed: a file of settings, or one of {names}")


def site_options(site: str) -> list[str]:
    """The options of sbatch in HVDCLIP_SBATCH of a site's file."""
    told = subprocess.run(
        ["bash", "-euc", 'source "$1"; printf %s "${HVDCLIP_SBATCH:-}"', "bash", str(site_file(site))],
        capture_output=True,
        text=True,
    )
    if told.returncode:
        raise ValueError(f"--site is {site!r}, but the shell cannot read its file: {told.stderr.strip()}")
    return shlex.split(told.stdout)


def commit() -> str:
    """The git commit of the current folder, and whether files differ from it; "no git commit" outside a repository."""
    try:
        head, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "no git commit"
    return f"git commit {head}" + (", with uncommitted changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
