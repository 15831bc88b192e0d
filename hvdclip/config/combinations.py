"""What sections say of each other: settings that are good alone and not together."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hvdclip import data, models
from hvdclip.config.named import CLASSIFIERS
from hvdclip.config.sections import Train
from hvdclip.problems import PROBLEMS

# What means something to labelled samples and data of one's own only, and what nothing to problems.
FOR_SAMPLES = ("label_smoothing", "accumulate", "channels_last", "sync_batch_norm")
FOR_DATA = (*FOR_SAMPLES, "precision", "compile")


def check_pair(model: str | None, source: str | None, mistakes: list[str]) -> None:
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


def check_for_data(
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
