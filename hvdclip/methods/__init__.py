"""The methods, one paper per file; `METHODS` is their registry."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import nn

from hvdclip.comm import Communicator, communicator
from hvdclip.engine import (
    COMMON,
    OWN,
    TRAVELS,
    Bilevel,
    Disagreement,
    GradientMethod,
    Handed,
    LocalMethod,
    Method,
    NonFiniteGradient,
    Parameters,
    Sharing,
    StepLeftOut,
    TwoLevels,
)
from hvdclip.engine.torch_optimizer import uncompiled
from hvdclip.methods.accbo import AccBO
from hvdclip.methods.adam_prox import AdamProx
from hvdclip.methods.adambo import AdamBO
from hvdclip.methods.bo_rep import BORep
from hvdclip.methods.bucket_clip import BucketClip
from hvdclip.methods.celgc import CELGC
from hvdclip.methods.clip21 import Clip21
from hvdclip.methods.clip21_sgd2m import Clip21SGD2M
from hvdclip.methods.clip_then_average import ClipThenAverage
from hvdclip.methods.decentralized_clip import DecentralizedClip
from hvdclip.methods.delta_gclip import DeltaGClip
from hvdclip.methods.ef21_norm import EF21Norm
from hvdclip.methods.episode import Episode
from hvdclip.methods.episode_pp import EpisodePP
from hvdclip.methods.fedprox import FedProx
from hvdclip.methods.ian_sgd import IANSGD
from hvdclip.methods.local_sgd import LocalSGD
from hvdclip.methods.minibatch_clip import MinibatchClip
from hvdclip.methods.minibatch_sgd import MinibatchSGD
from hvdclip.methods.mix_clip import MixClip
from hvdclip.methods.mom_clip import MomClip
from hvdclip.methods.naive_parallel_clip import NaiveParallelClip
from hvdclip.methods.norm_ec import NormEC
from hvdclip.methods.normalized_sgd import NormalizedSGD
from hvdclip.methods.scaffold import Scaffold
from hvdclip.methods.scaffold_clip import ScaffoldClip
from hvdclip.methods.sgdol import SGDOL
from hvdclip.methods.sketched import Sketched
from hvdclip.methods.slip import Slip
from hvdclip.methods.spider_clip import SpiderClip
from hvdclip.settings import (
    AveragingSettings,
    CommonSettings,
    Finite,
    LocalSettings,
    Positive,
    ThresholdSettings,
    setting,
)
from hvdclip.settings.mistakes import one_line

__all__ = [
    "COMMON",
    "METHODS",
    "OWN",
    "TRAVELS",
    "AveragingSettings",
    "CommonSettings",
    "Disagreement",
    "Finite",
    "GradientMethod",
    "LocalMethod",
    "LocalSettings",
    "Method",
    "NonFiniteGradient",
    "Positive",
    "Sharing",
    "StepLeftOut",
    "ThresholdSettings",
    "algorithms",
    "method",
    "optimizer",
    "register",
    "setting",
]

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        LocalSGD,
        CELGC,
        FedProx,
        Scaffold,
        ScaffoldClip,
        Episode,
        EpisodePP,
        DeltaGClip,
        MixClip,
        MomClip,
        NormalizedSGD,
        IANSGD,
        SGDOL,
        AdamProx,
        SpiderClip,
        Sketched,
        MinibatchSGD,
        NaiveParallelClip,
        MinibatchClip,
        ClipThenAverage,
        BucketClip,
        Clip21,
        Clip21SGD2M,
        NormEC,
        EF21Norm,
        DecentralizedClip,
        BORep,
        Slip,
        AccBO,
        AdamBO,
    )
}


def register(chosen: type[Method]) -> type[Method]:
    """Add your own method under its `name`; usable as a decorator.

    Raises TypeError for an incomplete method, and ValueError for a name that another method has.
    """
    missing = [
        key for key in ("name", "formula", "paper", "message_size", "memory", "Settings") if not hasattr(chosen, key)
    ]
    if missing or not issubclass(chosen, Method):
        lacks = ", ".join(missing) or "the base class Method"
        raise TypeError(f"{chosen.__name__} is not a complete method: it lacks {lacks}")
    if METHODS.setdefault(chosen.name, chosen) is not chosen:
        raise ValueError(f"{chosen.__name__}: the name {chosen.name!r} is taken by {METHODS[chosen.name].__name__}")
    return chosen


def algorithms() -> list[dict[str, Any]]:
    """The algorithms by name, with formula, paper and costs (P is the number of trainable floats).

    `message` is what a rank sends to collectives, `memory` what it needs besides x and its gradient (without momentum,
    drift measurement and outer step), `peak` that at the peak of a step on a CPU, all in floats.
    """
    return [
        {
            "name": m.name,
            "formula": m.formula,
            "paper": m.paper,
            "message": m.message_size,
            "memory": m.memory,
            "peak": m.peak,
            "extra gradients": m.extra_gradients,
        }
        for m in METHODS.values()
    ]


def method(name: str) -> type[Method]:
    """The method with that name; ValueError lists all names."""
    if name not in METHODS:
        raise ValueError(f"algorithm {name!r} is unknown; allowed: {', '.join(METHODS)}")
    return METHODS[name]


@uncompiled
def optimizer(
    name: str,
    model_or_params: Parameters,
    *,
    comm: Communicator | None = None,
    lower_parameters: Parameters | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    **settings: Any,
) -> Method:
    """A torch optimizer that trains with the named algorithm on all ranks of `comm`.

    `model_or_params` is a module, parameters, or parameter groups with their own `lr` and `weight_decay`. A module's
    buffers (batch norm's statistics) take part in the averages, and they and its frozen parameters start from rank 0's.
    If you pass parameters or groups, also pass `module=`: without it hvdclip does not see the buffers, and each rank
    has its own. `comm` defaults to Horovod if it is initialised, otherwise to one rank; it may be a process set of
    Horovod that this rank is in. Bilevel algorithms train `model_or_params` as the upper parameters and
    `lower_parameters`, given in the same forms, as the lower ones. A rank that waits longer than `timeout` seconds in
    one collective says so and ends; None lets it wait. `hvdclip algorithms` lists the settings. Raises ValueError or
    TypeError with the setting, its value and what is allowed, and RuntimeError if a launcher announces several ranks
    but Horovod is not initialised, or if each process is its own Horovod world.
    """
    chosen = method(name)
    try:
        checked = chosen.Settings(**settings)
    except ValidationError as error:
        raise one_line(error, chosen.Settings, prefix=name) from None
    ranks = communicator(comm)
    ranks.watch(timeout)
    return chosen(_handed(chosen, model_or_params, lower_parameters, checked, module), checked, ranks)


def _handed(
    chosen: type[Method], upper: Parameters, lower: Parameters | None, settings: Any, module: nn.Module | None
) -> Handed:
    """What the method trains; TypeError if lower parameters are missing, or given to a method without them."""
    is_bilevel = issubclass(chosen, Bilevel)
    if is_bilevel != (lower is not None):
        allowed = "lower_parameters=..., a module, parameters or groups" if is_bilevel else "no lower_parameters"
        raise TypeError(
            f"{chosen.name}: lower_parameters is {'missing' if is_bilevel else 'given'}; allowed: {allowed}"
        )
    return TwoLevels(upper, lower, settings, module) if lower is not None else Handed(upper, settings, module)
