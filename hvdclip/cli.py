"""The hvdclip command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic.fields import FieldInfo
from rich.markup import escape
from rich.table import Column, Table

from hvdclip import __version__, project
from hvdclip.bench.command import bench
from hvdclip.command import output
from hvdclip.command.exits import BAD_INPUT, bad_input, complain, together, with_ranks
from hvdclip.command.listing import InSections
from hvdclip.command.options import ConfigFile, whole_numbers
from hvdclip.command.start import load, may_fuse, start
from hvdclip.launch.command import (
    cancel_command,
    data_command,
    doctor_command,
    status_command,
    submit_command,
    tokenize_command,
    watch_command,
)
from hvdclip.launch.setup import setup_horovod_command
from hvdclip.launch.submitted import submitted
from hvdclip.scaling.command import points_command, predict_command, scaling_command, target_command
from hvdclip.training import status, terminal
from hvdclip.training.memory import keep_freed
from hvdclip.training.rundir import CONFIG, STOP, RunDirectory

if TYPE_CHECKING:
    from hvdclip.comm import Communicator
    from hvdclip.config import Config


@click.group(cls=InSections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Train with local clipped steps and one average of the parameters every I steps.

    The same train line works alone, under horovodrun -np N, mpirun -np N and srun.
    """
    output.never_fails()
    context.call_on_close(lambda: _tell_what_is_lost(context.invoked_subcommand))
    if context.invoked_subcommand not in ("train", "eval"):
        # a notebook's backend, for example, which matplotlib may refuse; in trainings the user's modules may need it
        os.environ.pop("MPLBACKEND", None)
    if context.invoked_subcommand != bench.name:
        keep_freed()


def _tell_what_is_lost(command: str | None) -> None:
    """A training has everything in its directory; for another command its output may be the only result."""
    error = output.failure(sys.stdout)
    if error is not None:
        complain(f"output is left out: {error.strerror}")
        if command != "train" and sys.exc_info()[0] is None:
            sys.exit(1)


for command in (
    *(bench, predict_command),
    *(submit_command, status_command, watch_command, cancel_command, data_command, tokenize_command, doctor_command),
    setup_horovod_command,
):
    main.add_command(command)
for command in (points_command, scaling_command, target_command):
    bench.add_command(command)


@main.command("train")
@click.argument("config", type=ConfigFile())
@click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Default: runs/<config name>-<date>.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the run directory.")
@click.option("--resume", is_flag=True, help="Continue the run in the run directory from its newest checkpoint.")
@click.option("--elastic", is_flag=True, help="Continue when ranks are lost or added, under an elastic horovodrun.")
def train_command(
    config: Path, overrides: tuple[str, ...], run_dir: Path | None, overwrite: bool, resume: bool, elastic: bool
) -> None:
    """Train the job of a YAML file on the launcher's ranks."""
    from hvdclip.comm.environment import leave_stalls_to_the_watch
    from hvdclip.training.run import Run
    from hvdclip.training.watch import Watch

    checked = bad_input(lambda: load(config, overrides))
    directory = bad_input(lambda: _run_directory(config, run_dir, overwrite, resume))
    leave_stalls_to_the_watch()
    if elastic:
        _train_elastic(checked, directory, overwrite, resume)
        return
    run = Run(checked, directory, overwrite, resume)
    comm = bad_input(lambda: start(checked))
    watch = Watch(comm, checked.comm.timeout)
    with_ranks(comm, lambda: run.train(comm, watch), lambda: watch.where)


def _train_elastic(config: Config, directory: RunDirectory, overwrite: bool, resume: bool) -> None:
    from hvdclip.comm.environment import check_elastic
    from hvdclip.training.elastic import ElasticRun
    from hvdclip.training.watch import Watch

    bad_input(lambda: check_elastic(config.comm.backend, config.algorithm.get("node_interval")))
    from hvdclip.comm import elastic  # with Horovod

    run = ElasticRun(config, directory, overwrite, resume)

    def train(comm: Communicator, hosts: elastic.Hosts) -> None:
        run.hosts, run.watch = hosts, Watch(comm, config.comm.timeout, run.watch)
        watch = run.watch
        with_ranks(comm, lambda: run.train(comm, watch), lambda: watch.where, through=elastic.RANKS_CHANGE)

    elastic.with_changing_ranks(train, may_fuse(config), config.comm.host_staging)


def _run_directory(config: Path, run_dir: Path | None, overwrite: bool, resume: bool) -> RunDirectory:
    if resume and overwrite:
        raise ValueError("--resume continues a run, which --overwrite would remove: give only one of them")
    if resume and run_dir is None:
        raise ValueError("--resume needs --run-dir, the directory of the run to continue")
    return RunDirectory(run_dir or Path("runs") / f"{config.stem}-{time.strftime('%Y%m%d-%H%M%S')}")


@main.command("eval")
@click.argument("run", metavar="RUN|FILE", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Choice(["final", "best", "last"]),
    default="final",
    show_default=True,
    help="Model of a RUN; last: that of its newest checkpoint.",
)
def eval_command(run: Path, model: str) -> None:
    """Evaluate a model that a run has saved, on all its splits."""
    from hvdclip.config import check_saved, look_beside

    directory = bad_input(lambda: RunDirectory.around(run)) if run.is_file() else RunDirectory(run)
    look_beside(directory.path / CONFIG)
    config = bad_input(lambda: check_saved(directory.config()))
    file = run if run.is_file() else directory.model_file(model)
    comm = bad_input(lambda: start(config))
    with_ranks(comm, lambda: _evaluate(config, comm, directory, file))


def _evaluate(config: Config, comm: Communicator, run: RunDirectory, file: Path) -> None:
    from hvdclip.training.evaluation import evaluate
    from hvdclip.training.job import Job
    from hvdclip.training.model_files import load_model

    job = together(comm, lambda: Job(config, comm, run.ranks()))
    together(comm, lambda: job.load_model(load_model(file)))
    together(comm, job.check_alike)
    for split in job.task.splits():
        with job.precision.cast():
            row = evaluate(job.task, job.model, split, comm)
        if comm.rank == 0:
            print("  ".join(f"{key} {value:.6g}" if key != "split" else f"{value:<5}" for key, value in row.items()))


@main.command("stop")
@click.argument("run", type=click.Path(path_type=Path))
def stop_command(run: Path) -> None:
    """Ask a run to save a checkpoint and stop.

    It stops at the end of a round, whichever launcher has started it.
    """
    found = bad_input(lambda: status.status(RunDirectory(run)))
    if found.state != "running":
        complain(f"{run} is not running: {found.text}")
        sys.exit(BAD_INPUT)
    (run / STOP).touch()
    print(f"{run} has been asked to stop")


@main.command("algorithms")
@click.argument("name", required=False)
def algorithms_command(name: str | None) -> None:
    """List the algorithms, or the settings of one."""
    from hvdclip.methods import algorithms, method
    from hvdclip.settings.mistakes import default_in_words

    if name is None:
        print("P: trainable floats. message: what a rank sends; memory: besides x and its gradient; both in floats")
        print("peak: memory at the peak of a step on a CPU, if that is more")
        table = Table("name", Column("formula and paper", ratio=1), show_lines=True, expand=True)
        for cost, width in (("message", 19), ("memory", 13), ("extra gradients", 17)):
            table.add_column(cost, width=width)
        for row in algorithms():
            rule = f"{escape(row['formula'])}\n[dim]{escape(row['paper'])}[/dim]"
            peak = "" if row["peak"] == row["memory"] else f"\npeak {row['peak']}"
            table.add_row(row["name"], rule, row["message"], row["memory"] + peak, row["extra gradients"])
    else:
        chosen = bad_input(lambda: method(name))
        print(f"{chosen.name}: {chosen.formula}\n{chosen.paper}")
        memory = f"{chosen.memory} (peak of a step: {chosen.peak})"
        print(f"message: {chosen.message_size}; memory: {memory}; extra gradients: {chosen.extra_gradients}")
        print("units: x, of the parameters; g, of the gradient")
        table = Table("setting", "default", "unit", "what it is")
        for setting, field in chosen.Settings.model_fields.items():
            default = "required" if field.is_required() else default_in_words(field)
            table.add_row(setting, default, _unit(field), field.description)
    terminal.console().print(table)


@main.command("configs")
@click.argument("name", required=False)
def configs_command(name: str | None) -> None:
    """List the included configurations, or print one.

    Commands take their names in place of a file.
    """
    folder = bad_input(lambda: project.part("configs"))
    if name is not None:
        file = folder / f"{name.removesuffix('.yaml')}.yaml"
        print(bad_input(lambda: file.read_text(encoding="utf-8")), end="")
        return
    table = Table("name", "what it is")
    for file in sorted(folder.glob("*.yaml")):
        table.add_row(file.stem, file.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    terminal.console().print(table)


@main.command("simulate")
@click.argument("config", type=ConfigFile())
@click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
@click.option("--ranks", default="2", show_default=True, help="Numbers of ranks N: 1,2,4,8.")
@click.option(
    "--ranks-per-node", type=click.IntRange(1), help="Needed for node_interval. Default: all ranks on one node."
)
@click.option("--intervals", help="Values of I, instead of algorithm.interval: 1,4,16.")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs of each, with seeds from train.seed on."
)
@click.option("--target", type=click.FloatRange(0, min_open=True), help="Gradient norm to reach, for speed-up.")
@click.option("--scale-lr", is_flag=True, help="Multiply lr and gamma by N, as for linear speed-up.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the pictures. Default: runs/<config name>-simulated."
)
def simulate_command(
    config: Path,
    overrides: tuple[str, ...],
    ranks: str,
    ranks_per_node: int | None,
    intervals: str | None,
    seeds: int,
    target: float | None,
    scale_lr: bool,
    out: Path | None,
) -> None:
    """Run a YAML file on N simulated ranks, and compare.

    For several N and I, in this one process.

    The small problems run as rows of one tensor, so thousands of ranks take seconds; ranks of other jobs take turns.
    """
    from rich.progress import track

    from hvdclip import simulation

    jobs = bad_input(lambda: list(_grid(config, overrides, ranks, intervals, scale_lr)))
    console = terminal.console()
    traces = []
    for checked, number in track(jobs, "simulating", console=console, disable=not console.is_terminal, transient=True):
        try:
            traces.append(bad_input(partial(simulation.run, checked, number, seeds, ranks_per_node)))
        except FloatingPointError as error:
            complain(f"N = {number}: {error}")
            sys.exit(1)
    console.print(simulation.table(traces, target))
    found = simulation.speed_up(traces, target) if target else None
    if found:
        console.print(
            f"log steps against log ranks, up to {found[1]} ranks: slope {found[0]:.3f} (linear speed-up: -1)"
        )
    for file in simulation.plot(traces, target, out or Path("runs") / f"{config.stem}-simulated"):
        console.print(f"picture: {file}", soft_wrap=True)


def _grid(
    config: Path, overrides: tuple[str, ...], ranks: str, intervals: str | None, scale_lr: bool
) -> Iterator[tuple[Config, int]]:
    """(configuration, ranks) of each simulation."""
    for interval in [None] if intervals is None else whole_numbers("--intervals", intervals):
        chosen = overrides if interval is None else (*overrides, f"algorithm.interval={interval}")
        for number in whole_numbers("--ranks", ranks):
            checked = load(config, chosen)
            if scale_lr:
                scaled = [
                    f"algorithm.{key}={checked.algorithm[key] * number}"
                    for key in ("lr", "gamma")
                    if checked.algorithm.get(key) is not None
                ]
                checked = load(config, (*chosen, *scaled))
            yield checked, number


@main.command("plot")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the pictures. Default: plots/ in the first run."
)
def plot_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Compare finished runs in a table and pictures.

    The pictures are PNG and SVG. For a sweep, all finished runs are compared.
    """
    from hvdclip.report import plot, table
    from hvdclip.report import runs as reading

    runs = bad_input(lambda: tuple(member for run in runs for member in _members(run)))
    read = bad_input(lambda: reading.read(runs))
    console = terminal.console()
    console.print(table.table(read))
    for file in plot.plot(read, out or runs[0] / "plots"):
        console.print(f"picture: {file}", soft_wrap=True)


@main.command("report")
@click.argument("place", metavar="RUN|STUDY", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder. Default: report/ in the run or study.")
def report_command(place: Path, out: Path | None) -> None:
    """Make a page of a finished run or scaling study.

    HTML in one file, and Markdown.
    """
    from hvdclip.report import of_run, page
    from hvdclip.scaling import of_study
    from hvdclip.scaling.study import STUDY, Study

    folder = out or place / "report"
    if (place / STUDY).exists():
        parts, title = bad_input(lambda: list(of_study.sections(Study.read(place), folder))), "Scaling study"
    else:
        parts, title = bad_input(lambda: list(of_run.sections(RunDirectory(place), folder))), "Run"
    for file in page.write(f"{title} {place.resolve().name}", parts, folder):
        terminal.console().print(f"report: {file}", soft_wrap=True)


def _members(run: Path) -> list[Path]:
    """The run, or the finished runs of a sweep."""
    made = submitted(run)
    if made is None or not made.runs:
        return [run]
    done = [name for name in made.runs if RunDirectory(run / name).is_done()]
    if not done:
        raise ValueError(f"{run} is a sweep without a finished run")
    if left := [name for name in made.runs if name not in done]:
        complain(f"{run}: left out, because not finished: {', '.join(left)}")
    return [run / name for name in done]


def _unit(field: FieldInfo) -> str:
    return str(field.json_schema_extra.get("unit", "")) if isinstance(field.json_schema_extra, dict) else ""
