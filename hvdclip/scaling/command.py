"""hvdclip predict, bench points, bench scaling and bench target."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvdclip.announced import announced_ranks
from hvdclip.command.exits import bad_input, together, with_ranks
from hvdclip.command.options import ConfigFile, touch, whole_numbers
from hvdclip.command.start import load, start
from hvdclip.training import terminal

if TYPE_CHECKING:
    from hvdclip.comm import Communicator
    from hvdclip.config import Config
    from hvdclip.scaling.target import Costs, Real, Steps

CONFIG_FILE = click.argument("config", type=ConfigFile())
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key.path=value]...")
INTERVALS = click.option("--intervals", default="1,4,16,64", show_default=True, metavar="I,...")
SYNTHETIC = click.option("--synthetic", is_flag=True, help="Also measure one batch again and again.")
STEPS = click.option(
    "--steps", default=16, show_default=True, type=click.IntRange(1), help="Steps of a block, at least."
)
BLOCKS = click.option("--blocks", default=7, show_default=True, type=click.IntRange(1), help="At least 7 for a claim.")

LAUNCHER = click.option(
    "--launcher",
    metavar="LINE",
    help="How to start ranks, with {ranks} and {nodes} to fill in. Default: mpirun; srun in a SLURM job.",
)


@click.command("predict")
@click.option("--step-ms", type=click.FloatRange(0, min_open=True), help="A step of one rank, without communication.")
@click.option("--floats", type=click.FloatRange(min=1), help="Number of parameters of the model.")
@click.option(
    "--bytes-each", default="4", show_default=True, type=click.Choice(["1", "2", "4"]), help="Bytes sent per float."
)
@click.option("--study", "folder", type=click.Path(path_type=Path), help="Instead: take step and bytes from a study.")
@click.option("--links", "named", metavar="NAME,...", help="By name, or GBITS:MICROSECONDS. Default: all named ones.")
@click.option("--ranks", default="2,8,64,512,4096", show_default=True, metavar="N,...")
def predict_command(
    step_ms: float | None, floats: float | None, bytes_each: str, folder: Path | None, named: str | None, ranks: str
) -> None:
    """Predict the gain of averages every I steps, and the best I.

    For N ranks over links given by name or by a study.

    Computed from a step's time and the model's size, or from a study; hvdclip bench link measures a link.
    """
    from hvdclip.scaling import predict
    from hvdclip.scaling.links import links

    chosen, numbers = bad_input(lambda: (links(named), whole_numbers("--ranks", ranks)))
    step, payload = bad_input(lambda: _step_and_payload(step_ms, floats, int(bytes_each), folder))
    terminal.console().print(predict.table(predict.predict(step, payload, chosen, numbers)))


def _step_and_payload(
    step_ms: float | None, floats: float | None, bytes_each: int, folder: Path | None
) -> tuple[float, float]:
    """Seconds of a step, and bytes of an average; a study's are those on its fewest and on its most ranks."""
    if folder is not None and step_ms is None and floats is None:
        from hvdclip.scaling.study import Study

        study = Study.read(folder)
        costs, most = study.model.costs, max(study.rows, key=lambda row: row.ranks)
        return costs[min(costs)].step, most.payload
    if folder is not None or step_ms is None or floats is None:
        raise ValueError("give --step-ms and --floats, or --study")
    return step_ms / 1e3, floats * bytes_each


@click.command("points")
@CONFIG_FILE
@OVERRIDES
@INTERVALS
@SYNTHETIC
@STEPS
@BLOCKS
@click.option("--json", "file", required=True, type=click.Path(path_type=Path), help="File for the results.")
def points_command(
    config: Path, overrides: tuple[str, ...], intervals: str, synthetic: bool, steps: int, blocks: int, file: Path
) -> None:
    """What bench scaling runs on each number of ranks.

    A configuration at several I, in interleaved blocks.
    """
    from hvdclip.bench.report import circumstances
    from hvdclip.scaling.points import measure, prepare

    configs = bad_input(lambda: _at_each(config, overrides, intervals))
    first = next(iter(configs.values()))

    def run(comm: Communicator) -> None:
        together(comm, lambda: touch(file) if comm.rank == 0 else None)
        clocked = together(comm, lambda: prepare(configs, synthetic, comm))
        made = circumstances(comm)
        points = measure(clocked, comm, steps, blocks)
        if comm.rank == 0:
            found = made | {"config": first.resolved, "points": points}
            file.write_text(json.dumps(found, indent=1) + "\n")

    comm = bad_input(lambda: start(first))
    with_ranks(comm, lambda: run(comm))


@click.command("scaling")
@CONFIG_FILE
@OVERRIDES
@click.option("--ranks", default="1,2,4", show_default=True, metavar="N,...")
@INTERVALS
@SYNTHETIC
@click.option("--strong", is_flag=True, help="Divide the batch over the ranks; default: each rank has a whole one.")
@STEPS
@BLOCKS
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the study.")
@click.option("--add", is_flag=True, help="Add to the study in the folder; replaces the same numbers of ranks.")
@LAUNCHER
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
    add: bool,
    launcher: str | None,
) -> None:
    """Measure how training scales with ranks and I; fit a model.

    Runs a configuration on several numbers of ranks and at several I.

    Starts the ranks itself, so call it without a launcher, on a workstation or inside a SLURM job.
    """
    from hvdclip.scaling import launching, report
    from hvdclip.scaling.study import Study

    configs, numbers = bad_input(lambda: (_at_each(config, overrides, intervals), whole_numbers("--ranks", ranks)))
    bad_input(lambda: _alone("bench scaling"))
    first = next(iter(configs.values()))
    batch = bad_input(lambda: _batch(first, numbers)) if strong else None
    if add:
        bad_input(lambda: launching.check_addition(out, first.resolved, list(configs), synthetic, strong))
    arguments = [str(config), *overrides, "--intervals", intervals, "--steps", str(steps), "--blocks", str(blocks)]
    console = terminal.console()
    told = launching.run([*arguments, *["--synthetic"] * synthetic], numbers, batch, out, launcher, add)
    while (text := bad_input(lambda: next(told, None))) is not None:
        console.print(text)
    study = Study.read(out)
    console.print(report.table(study))
    for file in report.plot(study, out):
        console.print(f"picture: {file}", soft_wrap=True)


@click.command("target")
@CONFIG_FILE
@OVERRIDES
@click.option("--loss", required=True, type=float, help="The loss to reach, on the first evaluated split.")
@click.option("--ranks", default="2", show_default=True, metavar="N,...", help="Simulated.")
@INTERVALS
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--step-ms", type=click.FloatRange(0, min_open=True), help="A step without communication.")
@click.option("--links", "named", metavar="NAME,...", help="By name, or GBITS:MICROSECONDS. Default: all named ones.")
@click.option(
    "--study", "folder", type=click.Path(path_type=Path), help="Take the costs from a study of bench scaling."
)
@click.option("--real", is_flag=True, help="With --study: also train for real, once for each N and I.")
@LAUNCHER
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
    real: bool,
    launcher: str | None,
    out: Path,
) -> None:
    """Find which I reaches a loss first.

    Steps come from simulated ranks. Costs come from links by name, which need --step-ms, or from a study; --real
    compares them with runs on real ranks.
    """
    from hvdclip.scaling import launching, target

    configs, numbers = bad_input(lambda: (_at_each(config, overrides, intervals), whole_numbers("--ranks", ranks)))
    costs = bad_input(lambda: _costs(next(iter(configs.values())), step_ms, named, folder, numbers))
    if real:
        bad_input(lambda: _check_real(folder))
        lines = {n: bad_input(partial(launching.launch_line, launcher, n)) for n in numbers}
    found, of_real = [], []
    for n in numbers:
        for interval, settings in configs.items():
            steps = _simulated(settings, n, interval, seeds, loss)
            found.append(steps)
            if real:
                run = out / f"real-ranks={n}-interval={interval}"
                words = [str(config), *overrides, f"algorithm.interval={interval}", "--run-dir", str(run)]
                of_real.append(_real(steps, lines[n], words, run, loss))
    console = terminal.console()
    console.print(target.table(found, costs, loss, of_real))
    for file in target.plot(found, costs, loss, out, of_real):
        console.print(f"picture: {file}", soft_wrap=True)


def _simulated(config: Config, ranks: int, interval: int, seeds: int, loss: float) -> Steps:
    import numpy as np

    from hvdclip import simulation
    from hvdclip.scaling import target

    try:
        steps = target.steps_to(bad_input(partial(simulation.run, config, ranks, seeds)), loss)
    except FloatingPointError:  # it diverges
        steps = np.full(seeds, np.inf)
    return target.Steps(ranks, interval, steps)


def _real(simulated: Steps, line: list[str], words: list[str], run: Path, loss: float) -> Real:
    """What real ranks need, where the simulated ones reached the loss."""
    from hvdclip.scaling import target

    if not math.isfinite(simulated.steps[0]):
        return target.NEVER
    bad_input(partial(_train, line, words, run))
    return target.Real.of(run, loss)


def _train(line: list[str], words: list[str], run: Path) -> None:
    from hvdclip.scaling import launching

    run.parent.mkdir(parents=True, exist_ok=True)
    launching.launch(line, ["train", *words, "--overwrite"], run.with_suffix(".txt"))


def _check_real(folder: Path | None) -> None:
    if folder is None:
        raise ValueError("--real is given; allowed: with --study, whose costs are measured on these machines")
    _alone("bench target --real")


def _costs(config: Config, step_ms: float | None, named: str | None, folder: Path | None, ranks: list[int]) -> Costs:
    """By link, the cost on N ranks; a study's is measured."""
    from hvdclip.comm import SingleRank
    from hvdclip.scaling.cost import StepCost
    from hvdclip.scaling.links import links
    from hvdclip.scaling.study import Study
    from hvdclip.training.job import Job
    from hvdclip.training.loop import Trainer

    if (step_ms is None) == (folder is None):
        raise ValueError("give one of --step-ms, for links by name, and --study")
    if folder is not None:
        measured = Study.read(folder).model.costs
        if missing := [n for n in ranks if n not in measured]:
            raise ValueError(f"--ranks has {missing[0]}; allowed with {folder}: {', '.join(map(str, measured))}")
        return {folder.resolve().name: measured.__getitem__}
    method = Trainer(Job(config, SingleRank())).optimizer
    sent = getattr(method.message, "received", None)
    if sent is None:
        raise ValueError(
            f"--step-ms is given, but the messages of {method.name} with compression are not plain averages, whose "
            "time follows from a link; allowed: --study, which measures them"
        )
    payload = sum(tensor.numel() * tensor.element_size() for tensor in sent)
    assert step_ms is not None
    step = step_ms / 1e3
    return {link.name: lambda n, link=link: StepCost(step, link.average(n, payload)) for link in links(named)}  # type: ignore[misc]


def _at_each(config: Path, overrides: tuple[str, ...], intervals: str) -> dict[int, Config]:
    """The configuration at each I, checked; ValueError if something other than I decides when ranks meet."""
    numbers = whole_numbers("--intervals", intervals)
    configs = {i: load(config, (*overrides, f"algorithm.interval={i}")) for i in numbers}
    settings = configs[numbers[0]].algorithm
    for name, plain in (("warmup_steps", 0), ("overlap", "none")):
        if settings.get(name, plain) != plain:
            raise ValueError(f"algorithm.{name} is {settings[name]}; allowed for a study of I: {plain}")
    return configs


def _alone(command: str) -> None:
    ranks, variable = announced_ranks()
    if ranks > 1:
        raise ValueError(f"{variable} announces {ranks} ranks: start {command} without a launcher, since it uses one")


def _batch(config: Config, ranks: list[int]) -> int:
    batch = config.resolved["data"].get("batch")
    odd = [n for n in ranks if batch is None or batch % n]
    if odd:
        raise ValueError(f"data.batch is {batch}; allowed with --strong: a batch that {odd[0]} ranks can divide evenly")
    return batch
