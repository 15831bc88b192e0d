"""Mistakes across sections: settings that are good alone but not together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hvdclip import data, models
from hvdclip.config.named import CLASSIFIERS, drawn_nowhere
from hvdclip.config.references import import_function
from hvdclip.config.sections import Section, Train, Windows
from hvdclip.data.vision import why_not
from hvdclip.engine import Bilevel
from hvdclip.errors import ConfigError
from hvdclip.methods import Method
from hvdclip.problems import PROBLEMS
from hvdclip.problems import Bilevel as TwoLevels
from hvdclip.sources import NAMES as STAGED
from hvdclip.torch_private import BatchNorm

# Settings that only labelled samples and the user's own data use, and settings that problems do not use.
FOR_OWN = ("loss",)
FOR_SAMPLES = ("label_smoothing", "accumulate", "channels_last", "sync_batch_norm")
FOR_DATA = (*FOR_SAMPLES, "precision", "compile")
# problems of upper and lower parameters
OF_TWO_LEVELS = [name for name, made in PROBLEMS.items() if isinstance(made, type) and issubclass(made, TwoLevels)]
NO_BATCH_NORM = "train.sync_batch_norm is True, but the model has no batch norm; allowed: False"
NO_CONVOLUTIONS = "train.channels_last is True, but the model has no convolutions of images; allowed: False"


def check_pair(model: str | None, source: str | None) -> Iterator[str]:
    """Texts need language models, problems need a point; the user's own models and data combine freely."""
    if not model or not source or ":" in model:
        return
    groups = (
        (PROBLEMS, ["point"]),
        (data.BILEVEL, ["cleaning"]),
        (data.LABELLED, models.SAMPLES),
        (data.IN_WINDOWS, models.STATELESS),
        (data.CORPORA, models.LANGUAGE),
    )
    for group, names in groups:
        if source in group:
            of_samples = names is models.SAMPLES
            if not (models.takes_samples(model) if of_samples else model in names):
                allowed = ", ".join(sorted(names)) + CLASSIFIERS * of_samples
                yield f"model.name is {model!r}; allowed with data {source}: {allowed}"
            return
    yield f"model.name is {model!r}; allowed with your own data: my.module:build"


def fill_window(read: type[Section], source: dict[str, Any], model: dict[str, Any]) -> Iterator[str]:
    """Give `window` its default, the model's context; a model with learned positions cannot read more."""
    if read is not Windows or not source:
        return
    context = model.get("context")
    if source["window"] is None and context is None:
        if model:
            yield "data.window is missing; required with your own model, whose context is not known"
    elif source["window"] is None:
        source["window"] = context
    elif context is not None and source["window"] > context and model.get("positions") == "learned":
        yield f"data.window is {source['window']}; allowed: up to model.context, {context}"


def check_for_data(train: Train, algorithm: dict[str, Any], source: dict[str, Any]) -> Iterator[str]:
    """What the train section and the algorithm require of the data."""
    name = source.get("name", "")
    if name and ":" not in name:
        others = FOR_DATA if name in PROBLEMS or name in data.BILEVEL else FOR_SAMPLES if name in data.CORPORA else ()
        in_pieces = ("accumulate",) if "window" in source else ()  # each piece has whole sequences
        yield from _unused(train, name, [key for key in (*FOR_OWN, *others) if key not in in_pieces])
    elif ":" in train.loss:
        yield from _of_own_loss(train)
    if name in PROBLEMS and algorithm.get("weight_decay_on", "all") != "all":
        yield f"algorithm.weight_decay_on is weights; allowed with data {name}: all, since x has no dimensions"
    if (name in data.LABELLED or "window" in source) and train.accumulate > source["batch"]:
        yield f"train.accumulate is {train.accumulate}; allowed: up to data.batch, {source['batch']}"
    if train.sync_batch_norm and train.accumulate > 1 and ":" in name:
        yield f"train.accumulate is {train.accumulate}; allowed with sync_batch_norm and your own data: 1"
    if name in data.BY_TORCHVISION and (lack := why_not()):
        yield f"data.name is {name!r}, and {lack}"
    if name in data.FROM_FILES and source["on_device"]:
        yield f"data.on_device is True with {name}; allowed: False, since its images are files"
    if train.stage is not None and name and name not in (*STAGED, "libsvm"):
        names = ", ".join(STAGED)
        yield f"train.stage is {train.stage!r}, but data.name is {name}; allowed: none, or the data {names} or libsvm"


def _unused(train: Train, name: str, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        default, value = Train.model_fields[key].default, getattr(train, key)
        if value != default:
            yield f"train.{key} is {value}; allowed with data {name}: {default}"


def _of_own_loss(train: Train) -> Iterator[str]:
    try:
        import_function(train.loss)
    except ConfigError as error:
        yield f"train.loss: {error}"
    if train.accumulate > 1:
        yield f"train.accumulate is {train.accumulate}; allowed with your own loss: 1"


def check_for_model(train: Train, model: dict[str, Any], source: dict[str, Any]) -> Iterator[str]:
    """What the train section and generated images require of a named model; your own is checked once it is built."""
    name, is_drawn = model.get("name", ":"), source.get("name") == "synthetic"
    if not (is_drawn or train.channels_last or train.sync_batch_norm) or ":" in name or not models.takes_samples(name):
        return
    # if the images are not known, assume images that all models take
    shape, classes = (3, 224, 224), 2
    if is_drawn:
        shape, classes = (source["channels"], source["side"], source["side"]), source["classes"]
    try:
        made = drawn_nowhere(model, shape, classes)
        if is_drawn:
            models.try_on(made, name, shape, max(1, source["batch"] // train.accumulate))
    except ValueError as error:
        if is_drawn:
            yield str(error)
        return
    if train.sync_batch_norm and not any(isinstance(module, BatchNorm) for module in made.modules()):
        yield NO_BATCH_NORM
    if train.channels_last and not any(p.dim() == 4 for p in made.parameters()):
        yield NO_CONVOLUTIONS


def check_for_levels(train: Train, method: type[Method], source: dict[str, Any]) -> Iterator[str]:
    """What an algorithm of two levels, and one of one level, requires of data and training."""
    name, of_data = method.name, source.get("name", ":")
    if not issubclass(method, Bilevel):
        if of_data in data.BILEVEL:
            yield f"data.name is {of_data!r}; allowed with {name}: other data, since these are for bilevel algorithms"
        return
    named = [*OF_TWO_LEVELS, *data.BILEVEL]
    if ":" not in of_data and of_data not in named:
        yield f"data.name is {of_data!r}; allowed with {name}: {', '.join(named)} or my.module:loaders"
    if train.steps is None or train.evaluate_every_steps is None:
        yield f"train: {name} reads two kinds of batches; give steps and evaluate_every_steps"
    for key in ("accumulate", "compile", "nt_asgd", "loss") if ":" in of_data else ("nt_asgd",):
        default, value = Train.model_fields[key].default, getattr(train, key)
        if value != default:
            yield f"train.{key} is {value}; allowed with {name}: {default}"


def check_for_method(train: Train, method: Method) -> Iterator[str]:
    """What the train section requires of the algorithm."""
    name, epochs_matter = method.name, train.milestones or train.warmup_epochs
    if not method.reads_alike and not (train.steps and train.evaluate_every_steps and not epochs_matter):
        yield (
            f"train: with {name} ranks read different amounts of data, so epochs mean nothing; give steps and "
            "evaluate_every_steps, and no milestones or warmup_epochs"
        )
    if train.sync_batch_norm and (method.needs_closure or not method.reads_alike):
        yield (
            f"train.sync_batch_norm is True; allowed with {name}: False, since its ranks may take different "
            "numbers of gradients"
        )
    if train.accumulate > 1 and name == "bucket_clip":
        yield f"train.accumulate is {train.accumulate}; allowed with {name}: 1, since it sends during backward"
    if train.precision == "fp16" and (method.needs_closure or name == "bucket_clip"):
        why = "clips during backward" if name == "bucket_clip" else "needs more than one gradient in a step"
        yield f"train.precision is fp16; allowed with {name}: fp32, bf16, since it {why}"
