"""From a configuration to the parts of a run: device, task, model, seeds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip import data, models
from hvdclip.comm import Communicator
from hvdclip.config import NO_CONVOLUTIONS, Config, import_function
from hvdclip.data import Labelled, Samples
from hvdclip.engine import Bilevel, check_agreement
from hvdclip.methods import METHODS
from hvdclip.problems import PROBLEMS, Problem
from hvdclip.problems import Bilevel as TwoLevels
from hvdclip.training.bilevel import BilevelProblem, Cleaning, OwnBilevel, checked
from hvdclip.training.classification import Classification
from hvdclip.training.language_model import LanguageModelling
from hvdclip.training.precision import Precision
from hvdclip.training.problem import ProblemTask
from hvdclip.training.provenance import code_sha256, versions
from hvdclip.training.randomness import seed_everything
from hvdclip.training.supervised import Supervised, WithOwnLoss
from hvdclip.training.task import Task
from hvdclip.training.text import TextTask
from hvdclip.training.windows import WindowedText


def choose_device(name: str, comm: Communicator) -> torch.device:
    """This rank's device. On the CPU also its threads: an equal share of the host's cores, or OMP_NUM_THREADS."""
    if name != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", comm.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    if name == "cuda":
        raise ValueError("train.device is 'cuda', but torch sees no CUDA device; allowed here: cpu, auto")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // comm.local_size))
    return torch.device("cpu")


class Job:
    """A rank's device, task and freshly initialised model (the same on all ranks); communicates nothing.

    The user's own data is made from `train.seed` too, unless it sets its own seed. `ranks` is the number of ranks whose
    mean is a problem's objective: those that train, even if others evaluate.
    """

    def __init__(self, config: Config, comm: Communicator, ranks: int | None = None):
        self.config, self.comm = config, comm
        self.device = choose_device(config.train.device, comm)
        seed_everything(config.train.seed)
        self.task, self.read = build_task(config, comm, self.device, ranks or comm.size)
        seed_everything(config.train.seed)
        self.model = prepare(build_model(config, self.task), config, comm).to(self.device)
        self.precision = Precision(config.train.precision, self.device)
        self.precision.check(self.model)

    def load_model(self, state: dict[str, Tensor]) -> None:
        """Take the values of a state_dict; ValueError, in one line, if it is another model's."""
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError("the file has another model: " + " ".join(str(error).split())) from None

    def check_alike(self) -> None:
        """Compare configuration, code, versions, data and model of all ranks; Disagreement, on all, is a table."""
        what, read = self.read
        sections = self.config.resolved.items()
        settings = {f"{name}.{key}": value for name, section in sections for key, value in section.items()}
        for key in ("data.root", "data.folder"):  # hosts may have the same data in different places
            settings.pop(key, None)
        shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in self.model.state_dict().items()]
        check_agreement(
            self.comm,
            settings | {"the code of hvdclip": code_sha256()[:12], **versions(), what: read, "the model's": shapes},
        )
        if isinstance(self.task, Supervised | OwnBilevel):
            self.task.even_out(self.comm)


def build_task(config: Config, comm: Communicator, device: torch.device, ranks: int) -> tuple[Task, tuple[str, Any]]:
    """The task of the data section, and what of it must be the same on all ranks."""
    settings = dict(config.data)
    name = settings.pop("name")
    is_bilevel = issubclass(METHODS[config.algorithm["name"]], Bilevel)
    if ":" in name:
        loaders = import_function(name)(rank=comm.rank, ranks=comm.size, **settings)
        if is_bilevel:
            return OwnBilevel(loaders, device), ("the loaders' splits", ", ".join(loaders))
        kind = WithOwnLoss if ":" in config.train.loss else Supervised
        supervised = kind(loaders, config.train.loss, device, config.train.label_smoothing)
        return supervised, ("the loaders' splits", ", ".join(loaders))
    if name in data.BILEVEL:
        flipped = data.BILEVEL[name](**settings)
        return Cleaning(flipped, device, comm.rank, comm.size), (f"the data of {name} (a checksum)", flipped.checksum)
    if name in PROBLEMS:
        of_problem = _problem_task(PROBLEMS[name], ranks, settings, config, comm.rank)
        problem = of_problem.problem
        at_start = f"{problem.value(problem.start).item():.9g}"  # processors differ in the last digits
        return of_problem, (f"the value of {name} at its start", at_start)
    if name in data.LABELLED:
        samples = data.LABELLED[name](**settings)
        checksums = [split.checksum for split in samples.values()]
        if config.shards.on_device:
            samples = {split: _keep_on(device, found) for split, found in samples.items()}
        train, where = config.train, (comm.rank, comm.size, device)
        of_rank = Classification(samples, config.shards, train.seed, *where, train.label_smoothing)
        return of_rank, (f"the data of {name} (checksums)", checksums)
    corpus = data.load(name, **settings)
    reader = config.train.seed, comm.rank, comm.size, device
    task = (
        LanguageModelling(corpus, config.columns, *reader)
        if config.windows is None
        else WindowedText(corpus, config.windows, *reader)
    )
    return task, (f"the text of {name} (its checksum)", corpus.checksum)


def _problem_task(
    made_by: Callable[..., Problem], ranks: int, settings: dict[str, Any], config: Config, rank: int
) -> ProblemTask:
    """The task of a problem; the run's algorithm may train its lower parameters."""
    if "lower" in config.algorithm:
        problem = made_by(ranks, lower=config.algorithm["lower"], **settings)
        assert isinstance(problem, TwoLevels), "the configuration has been checked"
        return BilevelProblem(problem, config.train.seed, rank)
    return ProblemTask(made_by(ranks, **settings), config.train.seed, rank)


def _keep_on(device: torch.device, samples: Samples) -> Samples:
    assert isinstance(samples, Labelled), "the configuration has been checked"
    return samples.to(device)


def build_model(config: Config, task: Task) -> nn.Module:
    """The model of the model section; the task says what fits its data."""
    settings = dict(config.model)
    name = settings.pop("name")
    if isinstance(task, TextTask):
        settings["vocabulary"] = task.corpus.vocabulary
    if isinstance(task, Classification):
        settings |= {"shape": task.data["train"].shape, "classes": task.data["train"].classes}
    if isinstance(task, ProblemTask):
        settings["start"] = task.problem.start
    if isinstance(task, BilevelProblem):
        settings["lower_start"] = task.problem.lower_start
    if isinstance(task, Cleaning):
        settings["samples"] = len(task.data.right)
    if ":" in name:
        model = import_function(name)(**settings)
        if isinstance(task, OwnBilevel):
            return checked(model, name)
        if isinstance(task, LanguageModelling) and not hasattr(model, "initial_state"):
            raise ValueError(f"model.name is {name!r}, which has no initial_state; allowed: with data.window set")
        return model
    model = models.build(name, **settings)
    if isinstance(task, Classification):
        piece = max(1, config.shards.batch // config.train.accumulate)
        models.try_on(model, name, settings["shape"], piece)
    return model


def prepare(model: nn.Module, config: Config, comm: Communicator) -> nn.Module:
    """The model as the train section changes it; ValueError if there is nothing to change."""
    train = config.train
    if train.sync_batch_norm:
        # it imports torch's compiler, which takes as long as all other imports
        from hvdclip.training.sync_batch_norm import synchronised

        model = synchronised(model, comm)
    if train.channels_last:
        if not any(p.dim() == 4 for p in model.parameters()):
            raise ValueError(NO_CONVOLUTIONS)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if train.compile:
        model.compile()
    return model
