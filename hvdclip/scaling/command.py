"""hvdclip predict, bench points, bench scaling and bench target."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from hvdclip.comm import Communicator, SingleRank
from hvdclip.comm.environment import launched
from hvdclip.config import Config, load
from hvdclip.endings import bad_input, together, with_ranks
from hvdclip.numbers import whole_numbers
from hvdclip.training import terminal
from hvdclip.training.job import Job

if TYPE_CHECKING:
    from hvdclip.scaling.target import Costs

CONFIG = click.argument("config", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
INTERVALS = click.option("--intervals", default="1,4,16,64", show_default=True, metavar="I,...")
SYNTHETIC = click.option("--synthetic", is_flag=True, help="Beside the data, one batch again and again.")
STEPS = click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Of a block, at least.")
BLOCKS = click.option("--blocks", default=7, show_default=True, type=click.IntRange(1), help="7 at least for a claim.")


@click.command("predict")
@click.option(
    "--step-ms",
    required=True,
    type=click.FloatRange(0, min_open=True),
    help="A step without communication.",
)
@click.option("--floats", required=True, type=click.FloatRange(min=1), help="The model's parameters.")
@click.option("--bytes-each", default="4", show_default=True, type=click.Choice(["1", "2", "4"]), help="On the wire.")
@click.option("--links", "named", metavar="NAME,...", help="Or GBITS:MICROSECONDS. Default: all that have a name.")
@click.option("--ranks", default="2,8,64,512,4096", show_default=True, metavar="N,...")
def predict_command(step_ms: float, floats: float, bytes_each: str, named: str | None, ranks: str) -> None:
    """What averages every I steps would gain on N ranks over a link, and which I is worth it.

    Computed from a step's time and the model's size alone; hvdclip bench link measures a link.
    """
    from hvdclip.scaling import predict
    from hvdclip.scaling.links import links

    chosen, numbers = bad_input(lambda: (links(named), whole_numbers("--ranks", ranks)))
    found = predict.predict(step_ms / 1e3, floats * int(bytes_each), chosen, numbers)
    terminal.console().print(predict.table(found))


@click.command("points")
@CONFIG
@OVERRIDES
@INTERVALS
@SYNTHETIC
@STEPS
@BLOCKS
@click.option("--json", "file", required=True, type=click.Path(path_type=Path), help="Gets what was measured.")
def points_command(
    config: Path, overrides: tuple[str, ...], intervals: str, synthetic: bool, steps: int, blocks: int, file: Path
) -> None:
    """What bench scaling runs on each number of ranks: a configuration at several I, in interleaved blocks."""
    from hvdclip.bench.report import circumstances
    from hvdclip.scaling.points import measure

    checked, chosen = bad_input(lambda: (_averaging(load(config, overrides)), whole_numbers("--intervals", intervals)))

    def run(comm: Communicator) -> None:
        together(comm, lambda: None)
        if checked.train.device == "cpu" or not torch.cuda.is_available():
            torch.set_num_threads(1)  # the ranks of a machine, and what sends their messages, share its cores
        made = circumstances(comm)
        points = measure(checked, chosen, synthetic, comm, steps, blocks)
        if comm.rank == 0:
            found = made | {"config": checked.resolved, "parameters": points[0]["parameters"], "points": points}
            file.write_text(json.dumps(found, indent=1) + "\n")

    comm = bad_input(lambda: launched(checked.comm.backend))
    with_ranks(comm, lambda: run(comm))


@click.command("scaling")
@CONFIG
@OVERRIDES
@click.option("--ranks", default="1,2,4", show_default=True, metavar="N,...")
@INTERVALS
@SYNTHETIC
@click.option("--strong", is_flag=True, help="The same batch on all ranks together; without, on each rank.")
@STEPS
@BLOCKS
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the study.")
@click.option(
    "--launcher",
    metavar="LINE",
    help='How ranks are started, as "mpirun -np {ranks}", which is the default; in a job of SLURM\'s that is srun.',
)
def scaling_command(
    config: Path,
    overrides: tuple[str, ...],
    ranks: str,
    intervals: str,
    synthetic: bool,
    strong: bool,
    steps: int,
    blocks: int,
    out: Path,
    launcher: str | None,
) -> None:
    """How training scales: a configuration on several numbers of ranks and at several I, and the model that fits.

    Starts the ranks itself, so it is called without a launcher, on a workstation or inside a job of SLURM's.
    """
    from hvdclip.scaling import report, study

    checked, numbers = bad_input(lambda: (_averaging(load(config, overrides)), whole_numbers("--ranks", ranks)))
    bad_input(lambda: whole_numbers("--intervals", intervals))
    batch = bad_input(lambda: _batch(checked, numbers)) if strong else None
    arguments = [str(config), *overrides, "--intervals", intervals, "--steps", str(steps), "--blocks", str(blocks)]
    console = terminal.console()
    told = study.run([*arguments, *["--synthetic"] * synthetic], numbers, batch, out, launcher)
    while (text := bad_input(lambda: next(told, None))) is not None:
        console.print(text)
    found = study.Study.read(out)
    console.print(report.table(found))
    for file in report.plot(found, out):
        console.print(f"picture: {file}", soft_wrap=True)


@click.command("target")
@CONFIG
@OVERRIDES
@click.option("--loss", required=True, type=float, help="Of the first split that is evaluated.")
@click.option("--ranks", default="2", show_default=True, metavar="N,...", help="Simulated.")
@INTERVALS
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--step-ms", type=click.FloatRange(0, min_open=True), help="A step without communication.")
@click.option("--links", "named", metavar="NAME,...", help="Or GBITS:MICROSECONDS. Default: all that have a name.")
@click.option("--study", "folder", type=click.Path(path_type=Path), help="Costs as bench scaling has measured them.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the picture.")
def target_command(
    config: Path,
    overrides: tuple[str, ...],
    loss: float,
    ranks: str,
    intervals: str,
    seeds: int,
    step_ms: float | None,
    named: str | None,
    folder: Path | None,
    out: Path,
) -> None:
    """Which I comes to a loss first: steps from simulated ranks, the seconds of a step from the cost model.

    Costs are those of links by name, for which --step-ms is needed, or those of a study.
    """
    from hvdclip import simulation
    from hvdclip.scaling import target

    checked, numbers = bad_input(lambda: (_averaging(load(config, overrides)), whole_numbers("--ranks", ranks)))
    chosen = bad_input(lambda: whole_numbers("--intervals", intervals))
    costs = bad_input(lambda: _costs(checked, step_ms, named, folder, numbers))
    found = []
    for n in numbers:
        for interval in chosen:
            settings = dataclasses.replace(checked, algorithm=checked.algorithm | {"interval": interval})
            trace = bad_input(partial(simulation.run, settings, n, seeds))
            found.append(target.Steps(n, interval, target.steps_to(trace, loss)))
    console = terminal.console()
    console.print(target.table(found, costs, loss))
    for file in target.plot(found, costs, loss, out):
        console.print(f"picture: {file}", soft_wrap=True)


def _costs(config: Config, step_ms: float | None, named: str | None, folder: Path | None, ranks: list[int]) -> Costs:
    """By link, the cost on N ranks; a study's is measured."""
    from hvdclip.scaling.cost import Cost
    from hvdclip.scaling.links import links
    from hvdclip.scaling.study import Study

    if (step_ms is None) == (folder is None):
        raise ValueError("give one of --step-ms, for links by name, and --study")
    if folder is not None:
        measured = Study.read(folder).model.costs
        if missing := [n for n in ranks if n not in measured]:
            raise ValueError(f"--ranks has {missing[0]}; allowed with {folder}: {', '.join(map(str, measured))}")
        return {folder.name: measured.__getitem__}
    job = Job(config, SingleRank())
    payload = 4 * sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    assert step_ms is not None
    step = step_ms / 1e3
    return {link.name: lambda n, link=link: Cost(step, link.average(n, payload)) for link in links(named)}  # type: ignore[misc]


def _averaging(config: Config) -> Config:
    if config.interval is None:
        name = config.algorithm["name"]
        raise ValueError(f"algorithm.name is {name!r}; allowed for a study of I: methods with one interval (a number)")
    return config


def _batch(config: Config, ranks: list[int]) -> int:
    batch = config.resolved["data"].get("batch")
    odd = [n for n in ranks if batch is None or batch % n]
    if odd:
        raise ValueError(f"data.batch is {batch}; allowed with --strong: what {odd[0]} ranks can share out evenly")
    return batch
