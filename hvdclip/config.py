"""The configuration: a YAML file, overridden by key.path=value, checked strictly before anything starts."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from hvdclip import data, models
from hvdclip.comm import Backend
from hvdclip.methods import METHODS, Method, register
from hvdclip.models.no_device import on_no_device
from hvdclip.problems import PROBLEMS
from hvdclip.settings.mistakes import describe, lines

Number = Annotated[float, Field(allow_inf_nan=False)]


class ConfigError(ValueError):
    """The mistakes of a configuration, one a line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Train(Section):
    steps: int | None = Field(None, ge=1, description="local steps per rank; or epochs")
    epochs: int | None = Field(None, ge=1, description="passes over the data by all ranks together; or steps")
    seed: int = Field(1, ge=0, description="of the initial model, the order of the data and each rank's dropout")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="local steps between evaluations, moved to the next round end; default: every epoch"
    )
    milestones: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="epochs after which lr (and gamma with it) is multiplied by decay"
    )
    decay: Number = Field(0.1, gt=0, description="factor of lr at each milestone")
    warmup_epochs: Number = Field(
        0.0, ge=0, description="epochs in which lr (and gamma with it) grows in a straight line to its full size"
    )
    warmup_from: Number = Field(0.1, gt=0, le=1, description="share of lr at which that begins")
    nt_asgd: Literal["epoch", "per_step"] | None = Field(
        None,
        description="evaluate a running mean of models once the validation loss stalls: at epoch ends, or per step",
    )
    weighted: bool = Field(False, description="weight each rank in every mean by the number of its training samples")
    nonmono: int = Field(5, ge=1, description="evaluations that NT-ASGD looks back")
    loss: str = Field("cross_entropy", description="for data of one's own: a function of torch.nn.functional")
    label_smoothing: Number = Field(
        0.0, ge=0, lt=1, description="share of each label that the loss in training spreads over all classes"
    )
    accumulate: int = Field(
        1, ge=1, description="pieces of a step's samples whose gradients add up, so that less is in memory at a time"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="of the model's computations; parameters and averages are float32 (fp16: the loss is scaled)",
    )
    channels_last: bool = Field(
        False, description="keep the weights of convolutions, which images follow, in the order that tensor cores like"
    )
    compile: bool = Field(False, description="compile the model (torch.compile)")
    sync_batch_norm: bool = Field(
        False, description="batch norm over the samples of all ranks, at a collective for each such layer and pass"
    )
    stage: str | None = Field(
        None,
        description="folder of each node's own disk to which the data are copied first; $SLURM_TMPDIR and the like are "
        "filled in",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be given")
        if self.nt_asgd == "epoch" and (self.evaluate_every_steps is not None or self.epochs is None):
            raise ValueError("nt_asgd: epoch takes models at epoch ends: give epochs, and no evaluate_every_steps")
        if not re.search("loss|cross_entropy", self.loss) or not hasattr(torch.nn.functional, self.loss):
            raise ValueError(f"loss is {self.loss!r}; allowed are the losses of torch.nn.functional, say mse_loss")
        if not self.warmup_epochs and self.warmup_from != Train.model_fields["warmup_from"].default:
            raise ValueError(f"warmup_from is {self.warmup_from}, but warmup_epochs is 0; give both, or neither")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing is {self.label_smoothing} with loss {self.loss}; allowed: 0")
        return self


class Checkpoint(Section):
    every_steps: int | None = Field(
        None, ge=1, description="local steps between checkpoints, moved to the next round end"
    )
    every_minutes: Number | None = Field(
        None, gt=0, description="minutes between checkpoints by rank 0's clock, moved to the next round end"
    )
    keep: int = Field(2, ge=1, description="checkpoints that are kept, the newest ones")
    other_ranks: Literal["refuse", "reset"] = Field(
        "refuse",
        description="where a run goes on on another number of ranks, and each kept something beside x for itself: "
        "refuse, or begin that anew",
    )


class Log(Section):
    every_steps: int = Field(10, ge=1, description="steps a line of metrics.jsonl, for gradient methods")
    drift: bool = Field(True, description="measure drift, for one more copy of the parameters and pass (local methods)")
    tensorboard: bool = Field(False, description="write TensorBoard files too")

    @model_validator(mode="after")
    def _tensorboard_is_there(self) -> Self:
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError("tensorboard is True, but tensorboard is not installed: pip install tensorboard")
        return self


class Comm(Section):
    backend: Backend = Field("horovod", description="what the ranks communicate by")
    share_gpus: bool = Field(False, description="let several ranks of a host train on one GPU")
    timeout: Number | None = Field(
        None,
        gt=0,
        description="seconds that a rank waits for the others before it takes them for lost; by default at least 60, "
        "and ten times the longest wait for a round so far",
    )


class Columns(Section):
    """How text is read; the corpus's own settings stand beside these."""

    batch: int = Field(20, ge=1, description="sequences per rank and step")
    bptt: int = Field(70, ge=5, description="base length of a sequence")
    evaluation_columns: int = Field(10, ge=1, description="sequences in which a split is evaluated, over all ranks")


class Shards(Section):
    """How labelled samples are shared out over the ranks and read; the data's own settings stand beside these."""

    batch: int = Field(32, ge=1, description="samples per rank and step")
    partition: Literal["contiguous", "similar", "dirichlet"] = Field(
        "similar", description="equal shards in file order, of a similarity, or by a Dirichlet distribution"
    )
    similarity: Number = Field(1.0, ge=0, le=1, description="share of every label that is spread evenly: 1 is i.i.d.")
    alpha: Number = Field(1.0, gt=0, description="of the Dirichlet distribution; the smaller the more uneven")
    partition_seed: int = Field(0, ge=0, description="of what is random in it")
    workers: int = Field(0, ge=0, description="processes of each rank that read samples ahead")
    on_device: bool = Field(False, description="keep all samples in the memory of the rank's device")

    @model_validator(mode="after")
    def _has_something_to_read(self) -> Self:
        if self.on_device and self.workers:
            raise ValueError(f"workers is {self.workers} with on_device; allowed: 0, since nothing is left to be read")
        return self


@dataclass(frozen=True)
class Config:
    """A checked configuration; `resolved` is all of it with the defaults filled in."""

    algorithm: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    columns: Columns
    shards: Shards
    train: Train
    checkpoint: Checkpoint
    log: Log
    comm: Comm
    resolved: dict[str, Any]

    @property
    def interval(self) -> int | None:
        """I where there is one number for the whole run."""
        interval = self.algorithm.get("interval")
        return interval if isinstance(interval, int) else None


CLASSIFIERS = ", a classifier of torchvision (resnet50, ...)"
# what a model learns from its data
FROM_DATA = ("vocabulary", "start", "shape", "classes")
# how the ranks read the data of a name; problems and data of one's own need no such settings
READ_AS: dict[str | None, type[Section]] = {
    **dict.fromkeys(data.CORPORA, Columns),
    **dict.fromkeys(data.LABELLED, Shards),
}

SECTIONS: dict[str, str] = {
    "algorithm": "the method by name and its settings (hvdclip algorithms)",
    "model": "awd_lstm, lstm, cnn, mlp, resnet, point and its settings, a name of torchvision's, or my.module:build",
    "data": "a text, labelled samples, a problem with a known answer, or my.module:loaders",
    "train": "how long, seed, schedule",
    "checkpoint": "how often the run is saved, so that it can be resumed",
    "log": "metrics",
    "comm": "what the ranks communicate by",
}


REQUIRED = ("algorithm", "model", "data", "train")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration; ConfigError has one line per mistake, with the valid keys and their defaults."""
    raw = _read(Path(path))
    for override in overrides:
        _override(raw, override)
    return check(raw)


def check(raw: dict[str, Any]) -> Config:
    """Check a configuration given as nested dictionaries; ConfigError has one line per mistake."""
    mistakes: list[str] = []
    raw = {section: value for section, value in raw.items() if value is not None}
    for section in raw:
        if section not in SECTIONS:
            mistakes.append(f"{section}: unknown section; valid are {', '.join(SECTIONS)}")
    mistakes += [f"{section}: missing; {SECTIONS[section]}" for section in REQUIRED if section not in raw]

    method, algorithm = _algorithm(raw.get("algorithm"), mistakes)
    model = _named(raw.get("model"), "model", models.MODELS, mistakes, FROM_DATA, models.find, CLASSIFIERS)
    _try_model(model, mistakes)
    sources = data.CORPORA | data.LABELLED | PROBLEMS
    corpus = _named(raw.get("data"), "data", sources, mistakes, exclude=("ranks",))
    _check_pair(model.get("name"), corpus.get("name"), mistakes)
    read_as = READ_AS.get(corpus.get("name"), Section)
    columns = _part(Columns, corpus if read_as is Columns else {})
    shards = _part(Shards, corpus if read_as is Shards else {})
    train = _section(Train, raw.get("train"), "train", mistakes)
    checkpoint = _section(Checkpoint, raw.get("checkpoint", {}), "checkpoint", mistakes)
    log = _section(Log, raw.get("log", {}), "log", mistakes)
    comm = _section(Comm, raw.get("comm", {}), "comm", mistakes)
    _check_for_data(train, algorithm, corpus, mistakes)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    assert method is not None and isinstance(train, Train)
    assert isinstance(checkpoint, Checkpoint) and isinstance(log, Log) and isinstance(comm, Comm)
    resolved = {
        "algorithm": algorithm,
        "model": model,
        "data": corpus,
        "train": train.model_dump(),
        "checkpoint": checkpoint.model_dump(),
        "log": log.model_dump(),
        "comm": comm.model_dump(),
    }
    corpus = {key: value for key, value in corpus.items() if key not in read_as.model_fields}
    algorithm = algorithm | {"name": method.name}
    if "drift" in method.Settings.model_fields:
        algorithm |= {"drift": log.drift}
    return Config(algorithm, model, corpus, columns, shards, train, checkpoint, log, comm, resolved)


def own(reference: str) -> Callable[..., Any]:
    """The function that `my.module:name` refers to; ConfigError if there is none."""
    module, _, name = reference.partition(":")
    # as python script.py would find it; a console script's own folder is what stands there otherwise
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of the user's own raises when imported
        raise ConfigError(f"{reference!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"{reference!r} is not a function")
    return function


def settings_model(function: Callable[..., Any], exclude: tuple[str, ...] = ()) -> type[BaseModel]:
    """The keyword arguments of a function as a strict settings model."""
    fields: dict[str, Any] = {
        p.name: (
            Any if p.annotation is inspect.Parameter.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for p in inspect.signature(function, eval_str=True).parameters.values()
        if p.name not in exclude
    }
    return create_model(function.__name__, __base__=Section, **fields)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for a string; this takes it for the number that it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; hvdclip configs lists those that come along") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be read") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no sections; valid are {', '.join(SECTIONS)}")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override!r} is no override; allowed is key.path=value, say algorithm.interval=4")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path}: its value is nested too deeply to be read") from None
    for key in keys[:-1]:
        inside = raw.get(key)
        raw[key] = {"name": inside} if isinstance(inside, str) else copy.copy(inside or {})
        raw = raw[key]
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: {key} has no settings of its own")
    raw[keys[-1]] = value


def _algorithm(section: Any, mistakes: list[str]) -> tuple[type[Method] | None, dict[str, Any]]:
    if section is None:
        return None, {}
    settings = _with_name(section, "algorithm", mistakes)
    if settings is None:
        return None, {}
    name = settings.pop("name", None)
    if isinstance(name, str) and ":" in name:
        method = _own_method(name, mistakes)
    else:
        method = METHODS.get(name) if isinstance(name, str) else None
        if method is None:
            mistakes.append(f"algorithm.name is {name!r}; allowed: {', '.join(METHODS)} or my.module:Method")
    if method is None:
        return None, {}
    for key, instead in (("drift", "log.drift"), ("weight", "train.weighted")):
        if key in settings:
            mistakes.append(f"algorithm.{key}: set {instead} instead")
            del settings[key]
    checked = _section(method.Settings, settings, "algorithm", mistakes)
    resolved = {} if checked is None else checked.model_dump(exclude={"drift", "weight"}) | _given(settings, "inner")
    return method, {"name": name} | resolved


def _own_method(name: str, mistakes: list[str]) -> type[Method] | None:
    try:
        chosen: Any = own(name)
        return chosen if chosen in METHODS.values() else register(chosen)
    except (ConfigError, TypeError, ValueError) as error:
        mistakes.append(f"algorithm: {error}")
        return None


def _named(
    section: Any,
    path: str,
    registry: Mapping[str, Callable[..., Any]],
    mistakes: list[str],
    exclude: tuple[str, ...] = (),
    find: Callable[[str], Callable[..., Any] | None] | None = None,
    beside: str = "",
) -> dict[str, Any]:
    """A section that names a function of a registry (or one that `find` finds), or one's own, and its settings."""
    if section is None:
        return {}
    settings = _with_name(section, path, mistakes)
    if settings is None:
        return {}
    name = settings.pop("name", None)
    if isinstance(name, str) and ":" in name:
        try:
            own(name)
        except ConfigError as error:
            mistakes.append(f"{path}: {error}")
        return {"name": name} | settings
    function = (find or registry.get)(name) if isinstance(name, str) else None
    if function is None:
        mistakes.append(f"{path}.name is {name!r}; allowed: {', '.join(registry)}{beside} or my.module:function")
        return {}
    model = settings_model(function, exclude)
    if name in READ_AS:
        model = create_model(path, __base__=(READ_AS[name], model))
    checked = _section(model, settings, path, mistakes)
    return {} if checked is None else {"name": name} | checked.model_dump()


def _check_pair(model: str | None, source: str | None, mistakes: list[str]) -> None:
    """Texts are for language models, problems for a point; what is of one's own may go with anything of one's own."""
    if not model or not source or ":" in model:
        return
    for group, names in ((PROBLEMS, ["point"]), (data.LABELLED, models.SAMPLES), (data.CORPORA, models.LANGUAGE)):
        if source in group:
            fits = models.takes_samples(model) if names is models.SAMPLES else model in names
            beside = CLASSIFIERS * (names is models.SAMPLES)
            if not fits:
                allowed = ", ".join(sorted(names)) + beside
                mistakes.append(f"model.name is {model!r}; allowed with data {source}: {allowed}")
            return
    mistakes.append(f"model.name is {model!r}; allowed with data of one's own: my.module:build")


# What means something to labelled samples and data of one's own only, and what nothing to problems.
FOR_SAMPLES = ("label_smoothing", "accumulate", "channels_last", "sync_batch_norm")
FOR_DATA = (*FOR_SAMPLES, "precision", "compile")


def _check_for_data(
    train: BaseModel | None, algorithm: dict[str, Any], corpus: dict[str, Any], mistakes: list[str]
) -> None:
    source = corpus.get("name", "")
    if not isinstance(train, Train):
        return
    for name in FOR_DATA if source in PROBLEMS else FOR_SAMPLES if source in data.CORPORA else ():
        default, value = Train.model_fields[name].default, getattr(train, name)
        if value != default:
            mistakes.append(f"train.{name} is {value}; allowed with data {source}: {default}")
    if source in PROBLEMS and algorithm.get("weight_decay_on", "all") != "all":
        mistakes.append(f"algorithm.weight_decay_on is weights; allowed with data {source}: all, of whose x none are")
    if source in data.LABELLED and train.accumulate > corpus["batch"]:
        mistakes.append(f"train.accumulate is {train.accumulate}; allowed: up to data.batch, {corpus['batch']}")
    if train.sync_batch_norm and train.accumulate > 1 and ":" in source:
        mistakes.append(
            f"train.accumulate is {train.accumulate}; allowed with sync_batch_norm and data of one's own: 1"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key's path, value before, value now) of what is not the same in two resolved configurations."""
    then, today = (dict(_flat(yaml.safe_load(yaml.safe_dump(each)))) for each in (before, now))
    for key in dict.fromkeys((*then, *today)):
        if then.get(key) != today.get(key):
            yield key, then.get(key), today.get(key)


def _flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings


Part = TypeVar("Part", bound=Section)


def _part(section: type[Part], settings: dict[str, Any]) -> Part:
    """Those of the settings that belong to a section."""
    return section(**{key: settings[key] for key in section.model_fields if key in settings})


def _try_model(settings: dict[str, Any], mistakes: list[str]) -> None:
    """A model on no device finds settings out of range without the cost of a real one."""
    name = settings.get("name")
    fitting: dict[str, Any] = {"vocabulary": 2} if name in models.LANGUAGE else {"shape": (3, 32, 32), "classes": 2}
    if name not in (*models.LANGUAGE, *models.SAMPLES):
        return
    try:
        with on_no_device():
            models.build(**settings, **fitting)
    except ValueError as error:
        mistakes.append(f"model.{error}")


def _section(model: type[BaseModel], section: Any, path: str, mistakes: list[str]) -> BaseModel | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        mistakes.append(f"{path} is {section!r}; allowed: settings, valid are {describe(model)}")
        return None
    try:
        return model(**{str(key): value for key, value in section.items() if value is not None})
    except ValidationError as error:
        mistakes += lines(error, model, path)
        return None


def _with_name(section: Any, path: str, mistakes: list[str]) -> dict[str, Any] | None:
    if isinstance(section, str):
        return {"name": section}
    if isinstance(section, dict):
        return {str(key): value for key, value in section.items() if value is not None}
    mistakes.append(f"{path} is {section!r}; allowed: a name, or name and settings")
    return None


def _given(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: settings[key]} if key in settings else {}
