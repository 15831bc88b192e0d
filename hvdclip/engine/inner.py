"""A torch optimizer that takes the step: gradients are clipped, then it moves x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.agreement import kind
from hvdclip.engine.descent import Descent
from hvdclip.engine.groups import check_keys
from hvdclip.engine.masked import Masked
from hvdclip.engine.reading import Gradients
from hvdclip.engine.sgd import Direction
from hvdclip.engine.split import Split, optimizers_in
from hvdclip.engine.torch_optimizer import is_horovods
from hvdclip.flat import Scalar, Space, Vector
from hvdclip.settings import ByShape, SgdSettings
from hvdclip.settings.inner import KIND, MATRICES, OTHERS

# torch's optimizers that treat each entry by itself
ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop")


class InnerSgd:
    """The step of `optimizer` along factor * d."""

    def __init__(self, descent: Descent, gradients: Gradients, optimizer: torch.optim.Optimizer):
        self.descent, self.gradients, self.optimizer = descent, gradients, optimizer
        self.masked = [Masked(each, descent.x, descent.skip) for each in optimizers_in(optimizer)]

    @property
    def changes(self) -> tuple[str, ...] | None:
        """Its state too; on a device it masks itself."""
        return None if self.descent.skip.on_host else ()

    def direction(self, g: Vector) -> Direction:
        """g itself."""
        return Direction(g, decayed=False)

    def descend(self, d: Direction, factor: Scalar = 1.0) -> None:
        """The optimizer's step along factor * d."""
        parameters = self.gradients.space.parameters
        for p, part in zip(parameters, d.vector.parts, strict=True):
            p.grad = part
        for place in self.gradients.alone():
            parameters[place].grad = None
        if isinstance(factor, Tensor) or factor != 1:
            d.vector.mul_(factor)
        with self.descent.scaled_lr():
            # a step that the ranks take together is not left out any more
            if self.descent.skip.on_host or self.gradients.common:
                self.optimizer.step()
            else:
                optimizers_in(self.optimizer)  # so that from now on both have the current groups and state
                for masked in self.masked:
                    masked.step()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the optimizer's own state is saved with the method's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def inner_of(settings: SgdSettings, groups: list[dict[str, Any]], space: Space) -> torch.optim.Optimizer:
    """The optimizer that `inner` names, over these groups; ValueError for one that cannot be inside."""
    inner: Any = settings.inner
    if isinstance(inner, ByShape):
        _check_matrices(inner.parts[MATRICES], [group for group in groups if group[KIND] == MATRICES])
        inner = Split(inner.parts, [dict(group) for group in groups], settings.lr)
        for part in inner.shared():
            check_keys(part.param_groups, [KIND, *part.defaults])
    elif not isinstance(inner, torch.optim.Optimizer):
        _check_matrices(inner, groups)
        inner = inner([dict(group) for group in groups], lr=settings.lr)
        check_keys(groups, inner.defaults)
    elif settings.weight_decay_on != "all":
        raise ValueError(
            f"weight_decay_on is {settings.weight_decay_on!r}; allowed with an instance as inner: all, because the "
            "instance's own groups apply"
        )
    if is_horovods(type(inner)):
        raise ValueError(
            "inner is an hvd.DistributedOptimizer, which would average every gradient in addition to hvdclip; "
            f"allowed: the torch optimizer inside it, {type(inner).__name__}"
        )
    given = {id(p) for group in inner.param_groups for p in group["params"] if p.requires_grad}
    if given != {id(p) for p in space.parameters}:
        raise ValueError("inner is an optimizer of other parameters than those passed to hvdclip.optimizer")
    if isinstance(inner, torch.optim.LBFGS):
        raise ValueError("inner is LBFGS, which needs several gradients a step; allowed: optimizers that need one")
    if inner.param_groups[0]["lr"] != groups[0]["lr"]:
        raise ValueError(f"inner's lr is {inner.param_groups[0]['lr']}, lr is {groups[0]['lr']}; allowed: equal values")
    for each in optimizers_in(inner):
        if "weight_decay" in settings.model_fields_set and "weight_decay" not in each.defaults:
            raise ValueError(f"weight_decay was given, but inner, {type(each).__name__}, does not have it")
    return inner


def _check_matrices(inner: Any, groups: list[dict[str, Any]]) -> None:
    """ValueError if Muon would get parameters that are not matrices."""
    if kind(inner) == "Muon":
        for shape in (tuple(p.shape) for group in groups for p in group["params"] if p.dim() != 2):
            raise ValueError(
                f"Muon is for matrices, but a parameter has shape {shape}; allowed: inner "
                f"{{{MATRICES}: {{name: Muon}}, {OTHERS}: {{name: AdamW}}}}"
            )
