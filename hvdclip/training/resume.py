"""How a run continues: from which checkpoint, with which changes, and what in its directory is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from hvdclip.averaging import MeasuredIntervals
from hvdclip.checkpoints import tensors
from hvdclip.checkpoints.manifest import Manifest
from hvdclip.checkpoints.store import Damage
from hvdclip.comm import Communicator
from hvdclip.config import Config, check_saved, differences
from hvdclip.training import heartbeats, lock
from hvdclip.training.checkpointing import BEST, MODEL, rank_file
from hvdclip.training.loop import Trainer
from hvdclip.training.provenance import versions
from hvdclip.training.rundir import CONFIG, METRICS, RunDirectory
from hvdclip.training.state import restore, restore_elsewhere

# what may change: the length, how often it is saved, what else is written, how long ranks wait for each other
HARMLESS = (
    *("train.steps", "train.epochs", "train.stage", "checkpoint.", "log.tensorboard", "log.wandb", "log.mlflow"),
    *("comm.timeout", "comm.share_gpus", "comm.host_staging", "data.workers", "data.on_device"),
)


@dataclass
class Found:
    """The newest checkpoint that is complete, or None if there is none; `damaged` are those that were skipped."""

    manifest: Manifest | None = None
    damaged: dict[int, str] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        return None if self.manifest is None else self.manifest.step

    def report_lines(self, run: RunDirectory, ranks: int) -> Iterator[str]:
        """The messages about it, one line each."""
        if last := heartbeats.how_it_ended(run.path):
            yield last
        for step, wrong in self.damaged.items():
            yield f"the checkpoint of step {step} is damaged: {wrong}; it is set aside, and the previous one is used"
        if self.manifest is None:
            yield f"{run.path} has no checkpoint: training starts from step 0"
            return
        yield f"{run.path} continues from step {self.manifest.step}"
        if self.manifest.ranks != ranks:
            yield (
                f"it had {_ranks(self.manifest.ranks)} and has {ranks} now: the data are shared out again, from "
                "the same share of the epoch on, and random numbers start again"
            )
        for package, now in versions().items():
            if (then := self.manifest.versions.get(package)) != now:
                yield f"{package} was {then} and is {now} now: results may differ in the last digits"


def look(run: RunDirectory, config: Config) -> list[int] | None:
    """The steps of all checkpoints, the newest first; None if the run is finished.

    FileExistsError if it is running, ValueError if it is to continue after its end but has left no checkpoint.
    """
    if owner := lock.user(run.path):
        raise FileExistsError(f"{run.path} is used by a running run: {owner}")
    steps = run.checkpoints.steps()
    if not run.is_finished():
        return steps
    try:
        done, before = run.summary()["exit"] == "done", run.config()["train"]
        as_long = all(before[key] == config.resolved["train"][key] for key in ("steps", "epochs"))
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        raise ValueError(f"{run.path} has a run whose summary.json or config.yaml is damaged") from None
    if done and not as_long and not steps:
        raise ValueError(f"{run.path} has a finished run, and no checkpoint to continue from")
    return None if done and as_long else steps


def find(run: RunDirectory, steps: list[int], comm: Communicator) -> Found:
    """The newest of these checkpoints that is complete on all ranks; each rank reads its own files.

    All ranks must call it. ValueError if there are some and none is complete.
    """
    found = Found()
    for step in steps:
        wrong = comm.gather(_damage(run, step, comm))
        if not any(wrong):
            found.manifest = run.checkpoints.manifest(step)
            return found
        found.damaged[step] = "; ".join(dict.fromkeys(filter(None, wrong)))
    if steps:
        named = "\n".join(f"the checkpoint of step {step} is damaged: {wrong}" for step, wrong in found.damaged.items())
        raise ValueError(f"{named}\n{run.checkpoints.path} has no complete checkpoint; --overwrite starts a new run")
    return found


def _damage(run: RunDirectory, step: int, comm: Communicator) -> str:
    """What is wrong with this rank's share of a checkpoint's files; empty if nothing is."""
    try:
        manifest = run.checkpoints.manifest(step)
        names = [rank_file(rank) for rank in range(comm.rank, manifest.ranks, comm.size)]
        if comm.rank == 0:
            names += [MODEL, CONFIG, *(name for name in (BEST,) if name in manifest.files)]
            for name, size in manifest.lines.items():
                file = run.path / name
                if size > (file.stat().st_size if file.exists() else 0):
                    raise Damage(f"{name} of the run is shorter than the {size} bytes that it had at that step")
        run.checkpoints.check(manifest, names)
    except Damage as damage:
        return str(damage)
    return ""


def check_config(run: RunDirectory, found: Found, config: Config) -> None:
    """ValueError names each setting that has changed, unless the change does no harm."""
    if found.step is None:
        return
    # settings that did not exist then had their defaults
    saved = check_saved(yaml.safe_load((run.checkpoints.folder(found.step) / CONFIG).read_bytes()))
    mistakes = [
        f"{key}: was {then}, now {now}; a run is resumed with the settings that it had"
        for key, then, now in differences(saved.resolved, config.resolved)
        if not key.startswith(HARMLESS)
    ]
    if config.train.steps is not None and config.train.steps < found.step:
        mistakes.append(f"train.steps is {config.train.steps}, but {found.step} are done; allowed: from {found.step}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def load(trainer: Trainer, run: RunDirectory, found: Found) -> None:
    """Bring a fresh trainer to the checkpoint; ValueError if it is past the end, or cannot be on other ranks."""
    if found.manifest is None:
        return
    step, ranks, here = found.manifest.step, found.manifest.ranks, trainer.comm.size
    folder = run.checkpoints.folder(step)
    state = tensors.load(folder / rank_file(trainer.comm.rank if ranks == here else 0))
    if not all(parameter.requires_grad for parameter in trainer.model.parameters()):
        trainer.model.load_state_dict(tensors.load(folder / MODEL))
    if ranks == here:
        restore(trainer, state)
    else:
        try:
            restore_elsewhere(trainer, state)
        except ValueError as error:
            raise ValueError(f"the run had {_ranks(ranks)} and cannot continue on {here}: {error}") from None
    epochs = trainer.config.train.epochs
    if epochs is not None and trainer.stream.batches > trainer.batches_due:
        raise ValueError(f"train.epochs is {epochs}, but {trainer.stream.epoch:.2f} are done")
    intervals = getattr(trainer.optimizer, "intervals", None)
    if isinstance(intervals, MeasuredIntervals):
        intervals.follow(chosen_after(run, step))


def chosen_after(run: RunDirectory, step: int) -> dict[int, int]:
    """I by the step from which it applied, as far as the run had come when it was cut off."""
    starts: dict[int, int] = {}
    ended, last = 0, None
    for line in run.whole_rows(METRICS):
        if ended >= step and line["interval"] != last:
            starts[ended] = line["interval"]
        ended, last = line["step"], line["interval"]
    return starts


def prepare(run: RunDirectory, found: Found, overwrite: bool) -> None:
    """Rank 0 restores the directory as it was at the checkpoint, or makes a new one if there is no checkpoint."""
    if found.manifest is None:
        run.create(overwrite)
        return
    run.claim()
    for step in found.damaged:
        run.checkpoints.set_aside(step)
    run.checkpoints.discard_parts()
    run.go_back(found.manifest.step, found.manifest.lines)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' * (number > 1)}"
