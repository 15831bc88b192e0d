"""Two torch optimizers as one: one moves matrices, the other all other parameters.

Jordan et al.: Muon. 2024 (with AdamW for embeddings, the output head, and parameters of other shapes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.settings.inner import KIND, MATRICES, OTHERS, ByShape, name_of

Groups = list[dict[str, Any]]


class Split(torch.optim.Optimizer):
    """Each optimizer moves the groups of its kind; both use one list of groups and one state."""

    def __init__(self, factories: Mapping[str, Callable[..., torch.optim.Optimizer]], groups: Groups, lr: float):
        self.parts: dict[str, torch.optim.Optimizer] = {}
        for kind, factory in factories.items():
            if of_kind := [group for group in groups if group[KIND] == kind]:
                self.parts[kind] = factory(of_kind, lr=lr)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {"lr": lr})
        for part in self.parts.values():
            self.state.update(part.state)  # before torch 2.13 Adagrad makes its state here, not in the first step

    def shared(self) -> list[torch.optim.Optimizer]:
        """The optimizers, with the current groups and state: both may have been replaced, for example after a load."""
        for kind, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group[KIND] == kind]
            part.state = self.state
        return list(self.parts.values())

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.shared():
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        found, wanted = (
            [group.get(KIND) for group in groups] for groups in (state_dict["param_groups"], self.param_groups)
        )
        if found != wanted:
            raise ValueError(f"the state's groups are of {found}, but this optimizer's are of {wanted}")
        super().load_state_dict(state_dict)


def optimizers_in(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers inside it; the optimizer itself if it is a single one."""
    return optimizer.shared() if isinstance(optimizer, Split) else [optimizer]


def by_shape(
    groups: Groups, frozen: list[list[Any]], inner: ByShape, lr: float, module: nn.Module | None
) -> tuple[Groups, list[list[Any]]]:
    """The groups, and what was frozen in each, split into those of matrices and then those of others.

    A group with the key "inner" is not split. If one optimizer has its own lr, its groups scale it as they scale `lr`.
    ValueError if there is no matrix, or no module that shows which parameters are matrices.
    """
    if module is None and any(KIND not in group for group in groups):
        raise ValueError(
            f"inner has {MATRICES} and {OTHERS}, and only a module's layers show which is which; allowed: a module, "
            f"module=, or groups that say {KIND!r}: {MATRICES!r} or {OTHERS!r}"
        )
    kept = set() if module is None else embeddings(module)
    split: list[tuple[dict[str, Any], list[Any]]] = []
    for kind in (MATRICES, OTHERS):
        factor = inner.keyword(kind, "lr", lr) / lr
        for group, left in zip(groups, frozen, strict=True):
            mine, left_mine = (
                [entry for entry in entries if _kind(entry, group, kept) == kind] for entries in (group["params"], left)
            )
            if mine or left_mine:
                its_own = {"params": mine, "lr": factor * group.get("lr", lr), KIND: kind}
                split.append((group | its_own, left_mine))
    if not any(group["params"] for group, _ in split if group[KIND] == MATRICES):
        raise ValueError(
            f"inner has {MATRICES}, but no parameter is a matrix; allowed: {name_of(inner.parts[OTHERS])} as inner"
        )
    return [group for group, _ in split], [left for _, left in split]


def embeddings(module: nn.Module) -> set[int]:
    """The ids of the tables of embeddings and of the output head, which are not matrices that map vectors.

    A head that is tied to a table is the same parameter. Any other head is the module's last nn.Linear, if it has as
    many outputs as a table has rows.
    """
    tables = [layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    linears = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    heads = [weight for weight in linears[-1:] if any(len(weight) == len(table) for table in tables)]
    return {id(weight) for weight in (*tables, *heads)}


def _kind(entry: Any, group: dict[str, Any], kept: set[int]) -> str:
    if KIND in group:
        if group[KIND] not in (MATRICES, OTHERS):
            raise ValueError(f"parameter group {KIND} is {group[KIND]!r}; allowed: {MATRICES!r} or {OTHERS!r}")
        return group[KIND]
    p: Tensor = entry[1] if isinstance(entry, tuple) else entry
    return MATRICES if p.dim() == 2 and id(p) not in kept else OTHERS
