"""hvdclip submit, status, cancel, data, tokenize and doctor."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.table import Table

from hvdclip.command.exits import bad_input, with_ranks
from hvdclip.command.options import ConfigFile
from hvdclip.command.start import load, start
from hvdclip.launch import following, slurm, submission
from hvdclip.launch.script import SCRIPT, Resources, SlurmJob
from hvdclip.launch.submitted import NUMBER, submitted
from hvdclip.training import status, terminal
from hvdclip.training.rundir import RunDirectory


@click.command("submit")
@click.argument("config", type=ConfigFile())
@click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--ntasks-per-node", type=click.IntRange(1), help="Ranks on each node. Default: one, or as the site says."
)
@click.option("--gpus-per-node", type=click.IntRange(1))
@click.option("--cpus-per-task", type=click.IntRange(1))
@click.option("--time", "limit", help="In SLURM's format: 30 (minutes), 01:30:00, 2-12:00:00.")
@click.option("--partition")
@click.option("--account")
@click.option(
    "--sbatch", "more", multiple=True, metavar="OPTION", help="One more option of sbatch, such as --sbatch=--mem=0."
)
@click.option("--site", help="Modules, launcher, network: a file of slurm/sites, or your own file.")
@click.option(
    "--max-requeues", type=click.IntRange(0), help="Starts after the first. Default: 20, or as the site says."
)
@click.option("--run-dir", type=click.Path(path_type=Path), help="Default: runs/<config name>-<date>.")
@click.option("--array", is_flag=True, help="One run for each combination of key=a,b settings, as a job array.")
@click.option("--at-once", default=0, type=click.IntRange(0), help="Runs of an array at a time. Default: all.")
@click.option("--dry-run", is_flag=True, help="Only print the script; the configuration is not checked.")
def submit_command(
    config: Path,
    overrides: tuple[str, ...],
    limit: str | None,
    site: str | None,
    max_requeues: int | None,
    run_dir: Path | None,
    array: bool,
    at_once: int,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Submit a training run to SLURM.

    The job saves a checkpoint when its time is over and starts itself again.

    The script, the complete configuration and SLURM's output are in the run directory.
    """
    folder = run_dir or Path("runs") / f"{config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    job = bad_input(
        lambda: submission.plan(
            *(config, overrides, folder, Resources(time=limit, **asked)),
            array=array,
            at_once=at_once,
            site=site,
            max_requeues=max_requeues,
        )
    )
    if dry_run:
        print(bad_input(job.script), end="")
        click.echo("the settings were not checked; hvdclip submit checks them before it submits", err=True)
        return
    number = bad_input(lambda: submission.check(job, config, overrides).submit())
    print(_said(job, number, folder))


def _said(job: SlurmJob, number: str, folder: Path) -> str:
    """What to do with a job that SLURM has taken."""
    runs = f"{len(job.runs)} runs, each " if job.runs else ""
    nodes, named = job.resources.nodes, shlex.quote(str(folder))
    return (
        f"submitted job {number}: {runs}on {nodes} node{'s' * (nodes > 1)}\n"
        f"its script   {folder / SCRIPT}\n"
        f"follow it    hvdclip status {named}; tail -f {named}/slurm-{number}*.out\n"
        f"end it       hvdclip cancel {named}"
    )


@click.command("status")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--requeue", is_flag=True, help="Exit with 0 if the run should be started again with --resume, otherwise with 1."
)
def status_command(run: Path, requeue: bool) -> None:
    """Show the state of a run, or of all runs of an array.

    From SLURM's queue and the heartbeats of the ranks.
    """
    if requeue:
        found = bad_input(lambda: status.status(RunDirectory(run)))
        print(f"requeue: {found.text}" if found.requeue else f"no requeue: {found.text}")
        sys.exit(0 if found.requeue else 1)
    made = bad_input(lambda: submitted(run))
    if made is not None:
        print(f"job {made.job}: {slurm.state(made.job) or 'not in the queue'}")
    if made is None or RunDirectory(run).exists():
        found = bad_input(lambda: status.status(RunDirectory(run)))
        print(found.text)
        terminal.console().print(status.table(found.beats))
    elif made.runs:
        table = Table("run", "state")
        for name in made.runs:
            table.add_row(name, _state(run / name))
        terminal.console().print(table)
    else:
        print(_state(run))


@click.command("watch")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--every", default=2.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between looks.")
def watch_command(run: Path, every: float) -> None:
    """Follow a run until it ends; Ctrl-C ends only the view.

    The run may be on this machine or in SLURM's queue.

    If output goes into a file or a pipe, prints a line at each change.
    """
    console, sights = terminal.console(), following.looks(RunDirectory(run), every)
    first = bad_input(lambda: next(sights))
    with suppress(KeyboardInterrupt):
        seen = chain([first], iter(lambda: bad_input(lambda: next(sights, None)), None))
        if not console.is_terminal:
            for text, _ in groupby(sight.text() for sight in seen):
                console.print(text, soft_wrap=True)
                console.file.flush()  # for the reader of a pipe
            return
        with Live(first.picture(), console=console, auto_refresh=False) as live:
            for sight in seen:
                live.update(sight.picture(), refresh=True)


def _state(run: Path) -> str:
    return status.status(RunDirectory(run)).text if RunDirectory(run).exists() else "has not started"


@click.command("data")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), help="Default: the folder that HVDCLIP_DATA names, or data.")
@click.option(
    "--from", "mirror", metavar="URL", help="Another address with the files, by the same paths as below the root."
)
def data_command(name: str, root: Path | None, mirror: str | None) -> None:
    """Download data by name.

    The names are a9a, cifar10, cifar100, mnist, mushrooms, ptb and wikitext-2.

    For login nodes, because compute nodes rarely have internet access.
    """
    from hvdclip import sources

    place = root or Path(os.environ.get("HVDCLIP_DATA", "data"))
    said = sources.fetch(name, place, mirror)
    while (line := bad_input(lambda: next(said, None))) is not None:
        print(line)
    print(f"train with HVDCLIP_DATA={shlex.quote(str(place.absolute()))}, or data.root")


@click.command("tokenize")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokenizer", "name", metavar="bytes|FILE", default="bytes", show_default=True, help="A tokenizer.json.")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the files.")
@click.option(
    "--valid",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of each text, its end, for validation.",
)
def tokenize_command(texts: tuple[Path, ...], name: str, folder: Path, valid: float) -> None:
    """Turn text files into token files for the data `tokens`."""
    from hvdclip.data.tokenize import tokenize, tokenizer

    said = tokenize(texts, bad_input(lambda: tokenizer(name)), folder, valid)
    while (line := bad_input(lambda: next(said, None))) is not None:
        print(line)
    print(f"train with data.name=tokens data.folder={shlex.quote(str(folder.absolute()))}")


@click.command("doctor")
@click.argument("config", required=False, type=ConfigFile())
@click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("runs"), help="Folder for runs.")
def doctor_command(config: Path | None, overrides: tuple[str, ...], run_dir: Path) -> None:
    """Check installation, launch, cluster, and data of a CONFIG.

    Works alone and, like train, under horovodrun, mpirun and srun. Exits with 0 if all is well, otherwise with 1.
    """
    from hvdclip.comm import launched
    from hvdclip.launch import doctor

    checked = bad_input(lambda: load(config, overrides)) if config else None
    comm = bad_input(lambda: start(checked) if checked else launched())
    findings: list[doctor.Finding] = []
    console = terminal.console()

    def examine() -> None:
        for finding in doctor.examine(comm, run_dir, checked):
            findings.append(finding)
            if comm.rank == 0:
                console.print(doctor.row(finding), soft_wrap=True)

    with_ranks(comm, examine)
    sys.exit(any(finding.advice for finding in findings))


@click.command("cancel")
@click.argument("run", type=click.Path(path_type=Path))
def cancel_command(run: Path) -> None:
    """Cancel a run's SLURM job, running or waiting.

    Use hvdclip stop to let it save a checkpoint first.
    """
    print(f"job {bad_input(lambda: _cancel(run))} has been cancelled")


def _cancel(run: Path) -> str:
    found = submitted(run)
    if found is None:
        raise FileNotFoundError(f"{run} has no job of hvdclip submit: there is no {NUMBER} in it")
    slurm.cancel(found.job)
    return found.job
