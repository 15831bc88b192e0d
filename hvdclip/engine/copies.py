"""Copies of a method, by copy.deepcopy and pickle, and a method with parameters more."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import torch

from hvdclip.averaging import NodeAverage
from hvdclip.comm import Communicator, SingleRank, default
from hvdclip.engine import saved
from hvdclip.engine.groups import check_keys, trainable_groups
from hvdclip.engine.handed import Copied, Grown

if TYPE_CHECKING:
    from hvdclip.engine.method import Method

COPIED = "hvdclip"  # the key by which a copied state is told from one of torch's
_shared: WeakValueDictionary[str, Communicator] = WeakValueDictionary()


class Shared:
    """A communicator, which a copy has in common with the original."""

    def __init__(self, comm: Communicator):
        self.comm = comm

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        key = next((key for key, comm in _shared.items() if comm is self.comm), None) or uuid.uuid4().hex
        _shared[key] = self.comm
        return _found, (key, self.comm.rank, self.comm.size)


def _found(key: str, rank: int, size: int) -> Shared:
    """The communicator itself; in another process one like it, or a RuntimeError."""
    if key in _shared:
        return Shared(_shared[key])
    comm = SingleRank() if size == 1 else default()
    if (comm.rank, comm.size) != (rank, size):
        raise RuntimeError(
            f"the optimizer was pickled by rank {rank} of {size}, this is rank {comm.rank} of {comm.size}: make one by "
            "hvdclip.optimizer(...) and load a state_dict into it"
        )
    return Shared(comm)


def state_of(method: Method) -> dict[str, Any]:
    """All that a copy is made from; hooks and `on_round` stay with the original, as they do with torch's."""
    node = method.handed.node
    return {
        COPIED: {
            "handed": Copied(method.handed, method.param_groups),
            "node": None if node is None else (node.interval, node.share, Shared(node.comm)),
            "settings": method.settings,
            "comm": Shared(method.comm),
            "state": saved.collected(method),
            "first_lr": method._first_lr,
            "step_scale": method.step_scale,
        }
    }


def make(method: Method, state: dict[str, Any]) -> None:
    """Make of a bare object the copy that `state_of` tells of; at its first use if its model is not yet there."""
    module = state[COPIED]["handed"].module
    if module is None or "_modules" in module.__dict__:
        _make(method, state[COPIED])
        return
    # a module that holds its own optimizer gets what it consists of after the optimizer is there
    chosen = type(method)

    def at_first_use(waiting: Method, name: str) -> Any:
        object.__setattr__(waiting, "__class__", chosen)
        _make(waiting, state[COPIED])
        return getattr(waiting, name)

    method.__class__ = type(chosen.__name__, (chosen,), {"__getattribute__": at_first_use})


def _make(method: Method, told: dict[str, Any]) -> None:
    if told["node"] is not None:
        interval, share, comm = told["node"]
        told["handed"].node = NodeAverage.known(interval, share, comm.comm)
    type(method).__init__(method, told["handed"], told["settings"], told["comm"].comm)
    with torch.no_grad():
        saved.restore(method, told["state"])
    method._first_lr, method.step_scale = told["first_lr"], told["step_scale"]


def grow(method: Method, group: dict[str, Any]) -> None:
    """Lay the method out anew with a group of parameters more; all ranks do so where they hold the same x."""
    if method.steps > 0 and not method.agrees():
        raise RuntimeError(
            "add_param_group in the middle of a round, where ranks hold different parameters; allowed: at a round's "
            "end (steps_in_round is 0, and no average is under way), or after synchronize()"
        )
    (added,) = trainable_groups([dict(group)], method.settings.model_copy(update={"weight_decay_on": "all"}))
    state, before, list_of_groups = saved.collected(method), dict(method.__dict__), method.param_groups
    old, inner = list(list_of_groups), cast(Any, method.optimizers.get("inner"))
    try:
        if inner is not None:
            check_keys([added], inner.defaults)
            inner.add_param_group(added)
        groups = list(list_of_groups) if inner is not None else [*old, added]
        method.__dict__.clear()
        type(method).__init__(method, Grown(before["handed"], groups, inner), before["settings"], before["comm"])
    except BaseException:
        list_of_groups[:] = old
        method.__dict__.clear()
        method.__dict__.update(before)
        method.space.bind(method.x)
        raise
    _take_over(method, before, state)


def _take_over(method: Method, before: dict[str, Any], state: dict[str, Any]) -> None:
    """Continue as the method of before, with zeros for what it did not have."""
    sizes = [(flat.numel(), grown.numel()) for flat, grown in zip(before["x"].flats, method.x.flats, strict=False)]
    hooks = {key: value for key, value in before.items() if key.startswith("_optimizer_")}
    # what a scheduler or a GradScaler has put there too
    method.__dict__.update({key: value for key, value in before.items() if key not in method.__dict__} | hooks)
    method.on_round, method.step_scale = before["progress"].on_round, before["descent"].scale
    own = state["hvdclip"]
    own["vectors"] = {name: _longer(flats, method, sizes) for name, flats in own["vectors"].items()}
    own["shape"] = saved.shape_of(method)
    for name in method.optimizers.keys() - {"inner"}:
        for kept in state[name]["state"].values():
            kept |= {key: _padded(value, dict(sizes)) for key, value in kept.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in method.param_groups]
    for packed, group in zip(saved.collected(method)["param_groups"], groups, strict=True):
        group["params"] = packed["params"]
    with torch.no_grad():
        saved.restore(method, state | {"param_groups": groups})
    method._first_lr = before["_first_lr"]


def _longer(flats: list[torch.Tensor], method: Method, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """A vector with zeros at the end of each dtype's numbers."""
    longer = [torch.zeros_like(flat) for flat in method.x.flats]
    for new, flat, (old, _) in zip(longer, flats, sizes, strict=False):
        new[:old] = flat
    return longer


def _padded(value: Any, sizes: dict[int, int]) -> Any:
    """An outer optimizer's tensor over one flat, as long as that is now."""
    if not isinstance(value, torch.Tensor) or value.dim() != 1 or value.numel() not in sizes:
        return value
    return torch.cat([value, value.new_zeros(sizes[value.numel()] - value.numel())])
