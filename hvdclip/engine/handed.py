"""What a method is made from, and what the ranks tell each other when it is made."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from hvdclip.averaging import NodeAverage
from hvdclip.comm import Communicator
from hvdclip.engine.agreement import check_agreement
from hvdclip.engine.groups import KEYS, LOWER, NAMES, ROLE, UPPER, Parameters, module_of, trainable_groups
from hvdclip.engine.inner import inner_of
from hvdclip.engine.split import by_shape
from hvdclip.flat import Space
from hvdclip.settings import ByShape, SgdSettings
from hvdclip.settings.inner import KIND

# by id(parameter), which no other one can have while the optimizer that holds it lives
_holders: WeakValueDictionary[int, torch.optim.Optimizer] = WeakValueDictionary()


class Handed:
    """The module, if there is one, and the groups of parameters to train; all ranks make the method together."""

    copies = 0  # copies that were made from it

    def __init__(self, model_or_params: Parameters, settings: Any, module: nn.Module | None = None):
        self.frozen: list[list[Any]] = []  # for each group what was frozen: parameters, or (name, parameter)
        self.groups = trainable_groups(model_or_params, settings, self.frozen)
        self.module = module_of(model_or_params, self.groups, module)
        inner = getattr(settings, "inner", None)
        if isinstance(inner, ByShape):
            self.groups, self.frozen = by_shape(self.groups, self.frozen, inner, settings.lr, self.module)
        if self.groups[0].get("lr") == 0:
            raise ValueError("the first parameter group's lr is 0; schedules read it, so it must be above 0")
        self.share = 1.0  # this rank's share in a weighted mean, times the number of ranks
        self.label = ""  # the name of its messages
        self.node: NodeAverage | None = None

    def unfrozen(self) -> list[tuple[int, Any]]:
        """(group, entry) of the parameters that were frozen when they were passed and require a gradient now."""
        left = ((k, entry) for k, entries in enumerate(self.frozen) for entry in entries)
        return [(k, entry) for k, entry in left if parameter_of(entry).requires_grad]

    def name_of(self, entry: Any) -> str:
        """A parameter in words."""
        if isinstance(entry, tuple):
            return f"parameter {entry[0]}"
        named = {} if self.module is None else {id(p): name for name, p in self.module.named_parameters()}
        return f"parameter {named[id(entry)]}" if id(entry) in named else f"a parameter of shape {tuple(entry.shape)}"

    def share_of(self, weight: float, comm: Communicator) -> float:
        """This rank's share; exactly 1 if all weights are equal."""
        weights = comm.gather(weight)
        self.share = 1.0 if len(set(weights)) == 1 else weight / sum(weights) * comm.size
        return self.share

    def label_of(self, comm: Communicator) -> str:
        """A name for messages: two optimizers may have messages under way at the same time."""
        self.label = comm.new_name()
        return self.label

    def node_average(self, comm: Communicator, interval: int, weight: float) -> NodeAverage:
        self.node = NodeAverage(comm, interval, weight)
        return self.node

    def agree(self, comm: Communicator, mine: dict[str, Any]) -> None:
        check_agreement(comm, mine)

    def start_alike(self, comm: Communicator, x: Sequence[Tensor], beside: Sequence[Tensor]) -> None:
        comm.broadcast_([*x, *beside])

    def inner(self, settings: SgdSettings, groups: list[dict[str, Any]], space: Space) -> torch.optim.Optimizer:
        return inner_of(settings, groups, space)


class TwoLevels(Handed):
    """The groups of the upper parameters, then those of the lower ones, each with its role.

    ValueError for a parameter that is in both, or lower groups with a weight decay or without a step.
    """

    def __init__(self, upper: Parameters, lower: Parameters, settings: Any, module: nn.Module | None = None):
        self.frozen: list[list[Any]] = []
        below = settings.model_copy(update={"weight_decay_on": "all", "weight_decay": 0.0})
        above = trainable_groups(upper, settings, self.frozen)
        found = trainable_groups(lower, below, self.frozen)
        own = {"lr": settings.lower_lr, "weight_decay": 0.0}
        self.groups = [group | {ROLE: UPPER} for group in above] + [own | group | {ROLE: LOWER} for group in found]
        self.module = _module_of_both(upper, lower) if module is None else module_of([], self.groups, module)
        self.share, self.label = 1.0, ""
        self.node: NodeAverage | None = None
        self._check(len(above))

    def _check(self, above: int) -> None:
        upper, lower = self.groups[:above], self.groups[above:]
        for name, group in (("upper", upper[0]), ("lower", lower[0])):
            if group.get("lr") == 0:
                raise ValueError(
                    f"the first {name} parameter group's lr is 0; schedules read it, so it must be above 0"
                )
        for group in lower:
            if group["weight_decay"]:
                raise ValueError(
                    f"weight_decay of a lower parameter group is {group['weight_decay']}; allowed: 0, and lower_l2, "
                    "which second derivatives see too"
                )
        there = {id(parameter_of(entry)) for group in upper for entry in group["params"]}
        both = [entry for group in lower for entry in group["params"] if id(parameter_of(entry)) in there]
        if both:
            raise ValueError(
                f"{self.name_of(both[0])} is among the upper and the lower parameters; allowed: only one of them"
            )


class Copied(Handed):
    """What a copy of a method is made from, without the other ranks: it contains what they have agreed on."""

    def __init__(self, original: Handed, groups: list[dict[str, Any]]):
        self.module, self.share, self.label = original.module, original.share, f"{original.label}c{original.copies}"
        original.copies += 1
        self.frozen = original.frozen
        self.node: NodeAverage | None = None
        # everything else in a group comes with the state
        self.groups = [{key: group[key] for key in (*KEYS, NAMES, KIND, ROLE) if key in group} for group in groups]

    def share_of(self, weight: float, comm: Communicator) -> float:
        return self.share

    def label_of(self, comm: Communicator) -> str:
        return self.label

    def node_average(self, comm: Communicator, interval: int, weight: float) -> NodeAverage:
        assert self.node is not None
        return self.node

    def agree(self, comm: Communicator, mine: dict[str, Any]) -> None: ...

    def start_alike(self, comm: Communicator, x: Sequence[Tensor], beside: Sequence[Tensor]) -> None: ...


class Grown(Handed):
    """The same parameters and inner optimizer with one more group, on all ranks."""

    def __init__(self, original: Handed, groups: list[dict[str, Any]], inner: torch.optim.Optimizer | None):
        self.module, self.groups, self._inner = original.module, groups, inner
        self.frozen = [*original.frozen, *([] for _ in groups[len(original.frozen) :])]
        self.share, self.label, self.node = original.share, original.label, original.node

    def start_alike(self, comm: Communicator, x: Sequence[Tensor], beside: Sequence[Tensor]) -> None:
        comm.broadcast_(x)  # not the buffers: by now each rank may have its own

    def inner(self, settings: SgdSettings, groups: list[dict[str, Any]], space: Space) -> torch.optim.Optimizer:
        assert self._inner is not None
        return self._inner


def _module_of_both(*given: Parameters) -> nn.Module | None:
    """One module that contains those that were given, by the names of their levels; None if none was."""
    modules = {level: each for level, each in zip((UPPER, LOWER), given, strict=True) if isinstance(each, nn.Module)}
    return nn.ModuleDict(modules) if modules else None


def parameter_of(entry: Any) -> Tensor:
    """The parameter of an entry, which may be (name, parameter)."""
    return entry[1] if isinstance(entry, tuple) else entry


def take_from_others(parameters: Sequence[Tensor], owner: torch.optim.Optimizer) -> None:
    """Warn if another method holds one of them: its next step will find that they have left its vector."""
    if _held(parameters, owner):
        gc.collect()  # a discarded optimizer may still be in a reference cycle
    if holder := _held(parameters, owner):
        warnings.warn(
            f"another hvdclip optimizer ({getattr(holder, 'name', 'unknown')}) has these parameters: from now on "
            "they belong to the new one, and a step of the other is refused; del the other one first",
            stacklevel=7,
        )


def hold(parameters: Sequence[Tensor], owner: torch.optim.Optimizer) -> None:
    """They belong to this owner as long as it lives."""
    _holders.update({id(p): owner for p in parameters})


def _held(parameters: Sequence[Tensor], owner: torch.optim.Optimizer) -> torch.optim.Optimizer | None:
    holders = (_holders.get(id(p)) for p in parameters)
    return next((holder for holder in holders if holder is not None and holder is not owner), None)
