"""hvdclip bench: the commands that measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from hvdclip.announced import announced_ranks
from hvdclip.command.exits import bad_input, together, with_ranks
from hvdclip.command.options import touch
from hvdclip.training.memory import keep_freed

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from hvdclip.comm import Communicator

Chosen = TypeVar("Chosen")
Command = TypeVar("Command", bound=Callable[..., Any])

_shape = click.option("--shape", default="awd_lstm", show_default=True, help="awd_lstm, resnet56, resnet50 or small.")


# Compared with other torch programs, which leave memory to glibc; the others measure training as hvdclip does it.
SINGLE_OPERATIONS = ("step", "allreduce", "growth", "link")


@click.group("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure hvdclip against alternatives.

    All peers run in one call, in interleaved blocks; results are ratios of medians.

    Times alone say nothing about other machines. Works alone, and under horovodrun, mpirun and srun.
    """
    if context.invoked_subcommand not in SINGLE_OPERATIONS:
        keep_freed()


def _common(command: Command) -> Command:
    for option in (
        click.option("--json", "file", type=click.Path(path_type=Path), help="Write all raw times into this file."),
        click.option("--blocks", default=9, show_default=True, type=click.IntRange(1), help="At least 7 for a claim."),
    ):
        command = option(command)
    return command


_device = click.option(
    "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="auto: CUDA if there is a device."
)


@bench.command("step")
@_shape
@_device
@_common
def step_command(shape: str, device: str, blocks: int, file: Path | None) -> None:
    """One clipped step: hvdclip, clip_grad_norm_ and the floor.

    The floor is what memory allows: one read of g, and one pass x -= a g.
    """
    from hvdclip.bench import step
    from hvdclip.bench.shapes import Shape, shapes

    def choose() -> list[Shape]:
        _check_device(device)
        return shapes(shape)

    def compare(of: list[Shape], comm: Communicator) -> Found:
        return step.compare(of, comm, blocks, _chosen(device, comm))

    _bench("step", shape, file, choose, compare)


@bench.command("images")
@click.option("--model", default="resnet50", show_default=True, help="A torchvision classifier, cnn or resnet.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Images per rank and step.")
@click.option("--side", default=224, show_default=True, type=click.IntRange(1), help="Pixels of an image's side.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--channels-last", is_flag=True, help="The memory order that tensor cores prefer.")
@click.option("--steps", default=10, show_default=True, type=click.IntRange(1), help="Steps of a block.")
@_device
@_common
def images_command(
    model: str,
    batch: int,
    side: int,
    precision: str,
    channels_last: bool,
    steps: int,
    device: str,
    blocks: int,
    file: Path | None,
) -> None:
    """Steps of an image model: hvdclip, torch alone, Horovod.

    The images are synthetic.
    """
    from hvdclip import models
    from hvdclip.bench import images

    def choose() -> str:
        if not models.takes_samples(model):
            raise ValueError(f"--model is {model!r}; allowed: cnn, resnet and torchvision's classifiers")
        _check_device(device)
        shape = (3, side, side)
        models.try_on(models.build(model, shape=shape, classes=images.CLASSES), model, shape, batch)
        return model

    def compare(name: str, comm: Communicator) -> Found:
        setting = images.Setting(name, batch, side, precision, channels_last, _chosen(device, comm))
        return images.compare(setting, comm, steps, blocks)

    _bench("images", model, file, choose, compare)


@bench.command("allreduce")
@_shape
@_common
def allreduce_command(shape: str, blocks: int, file: Path | None) -> None:
    """One average: hvdclip, a flat vector, eight other ways."""
    from hvdclip.bench import allreduce
    from hvdclip.bench.shapes import shapes

    _bench("allreduce", shape, file, lambda: shapes(shape), lambda of, comm: allreduce.compare(of, comm, blocks))


@bench.command("train")
@click.option("--shape", default="lstm", show_default=True, help="lstm (2.65 M floats) or small.")
@click.option("--peers", "names", help="Some of the peers, separated by commas. Default: all.")
@click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Steps of a block, at least.")
@_common
def train_command(shape: str, names: str | None, steps: int, blocks: int, file: Path | None) -> None:
    """Steps of an LSTM: hvdclip, Horovod, DDP, PostLocalSGD.

    hvdclip runs at several I.
    """
    from hvdclip.bench import train

    # Process sets make Horovod's ranks meet in each of its cycles, which would slow down all peers.
    process_sets = names is not None and train.ON_NODES in names
    _bench(
        "train",
        shape,
        file,
        lambda: (train.language(shape), train.peers(names)),
        lambda chosen, comm: train.compare(*chosen, comm, steps, blocks),
        process_sets,
    )


@bench.command("growth")
@click.option("--shape", default="1e5,1e6,1e7,1e8", show_default=True, help="Numbers of floats.")
@_common
def growth_command(shape: str, blocks: int, file: Path | None) -> None:
    """Times of a step and an average by number of parameters."""
    from hvdclip.bench import growth

    _bench("growth", shape, file, lambda: growth.sizes(shape), lambda sizes, comm: growth.compare(sizes, comm, blocks))


@bench.command("link")
@click.option(
    "--largest", default=256.0, show_default=True, type=click.FloatRange(min=0.1), help="MiB of the largest message."
)
@_common
def link_command(largest: float, blocks: int, file: Path | None) -> None:
    """Latency and bandwidth between the ranks.

    From all-reduces of 4 bytes to 256 MB, by Horovod and by mpi4py.
    """
    from hvdclip.bench import link

    def choose() -> list[int]:
        if announced_ranks()[0] < 2:
            raise ValueError("one rank has no link to measure: start several with mpirun, horovodrun or srun")
        return link.sizes(largest)

    _bench("link", f"up to {largest:g} MiB", file, choose, lambda of, comm: link.compare(of, comm, blocks))


@bench.command("save")
@click.option("--shape", default="quickstart", show_default=True, help="quickstart (its language model) or small.")
@click.option("--rounds", default=50, show_default=True, type=click.IntRange(1), help="Rounds between two checkpoints.")
@click.option(
    "--momentum", default=0.0, show_default=True, type=float, help="With momentum each rank saves as much again."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; default: the temporary folder.")
@_common
def save_command(shape: str, rounds: int, momentum: float, folder: Path | None, blocks: int, file: Path | None) -> None:
    """Rounds with and without a checkpoint, and the pause."""
    from hvdclip.bench import save

    _bench(
        "save",
        shape,
        file,
        lambda: save.job(shape, momentum),
        lambda config, comm: save.compare(config, comm, rounds, blocks, folder),
    )


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is 'cuda', but torch sees no CUDA device; allowed here: cpu, auto")


def _chosen(device: str, comm: Communicator) -> torch.device:
    from hvdclip.training.job import choose_device

    chosen = choose_device(device, comm)
    if chosen.type == "cuda":
        together(comm, lambda: comm.take_gpus(shared=False))
    return chosen


class Found(Protocol):
    """The result of a comparison."""

    def table(self) -> Table: ...

    def as_json(self) -> dict[str, Any]: ...


def _bench(
    name: str,
    shape: str,
    file: Path | None,
    choose: Callable[[], Chosen],
    compare: Callable[[Chosen, Communicator], Found],
    process_sets: bool = False,
) -> None:
    """Check the input, compare, and on rank 0 show and write the result."""
    import torch

    from hvdclip.bench.report import circumstances
    from hvdclip.comm import launched
    from hvdclip.training.terminal import console

    def run() -> None:
        chosen = together(comm, choose)
        together(comm, lambda: touch(file) if comm.rank == 0 else None)
        torch.set_num_threads(1)  # the ranks of a machine, and the threads that send their messages, share its cores
        made = {"bench": name, "shape": shape} | circumstances(comm)
        found = compare(chosen, comm)
        if comm.rank == 0:
            console().print(found.table())
            if file is not None:
                file.write_text(json.dumps(made | found.as_json(), indent=1) + "\n")

    comm = bad_input(lambda: launched(process_sets=process_sets))
    with_ranks(comm, run)
