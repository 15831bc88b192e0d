"""Copies of a method, by copy.deepcopy and pickle, and a method with additional parameters."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import torch

from hvdclip.averaging import NodeAverage, OuterParts
from hvdclip.comm import Communicator, SingleRank, default
from hvdclip.engine import saved
from hvdclip.engine.agreement import check_agreement
from hvdclip.engine.groups import NAMES, check_keys, trainable_groups
from hvdclip.engine.handed import Copied, Grown, parameter_of
from hvdclip.engine.split import Split
from hvdclip.flat import Space
from hvdclip.torch_private import hooks_in, is_made

if TYPE_CHECKING:
    from hvdclip.engine.method import Method

COPIED = "hvdclip"  # the key that marks a copied state; torch's states lack it
_shared: WeakValueDictionary[str, Communicator] = WeakValueDictionary()


class Shared:
    """A communicator, which a copy shares with the original."""

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
    """Everything that a copy is made from; hooks and `on_round` stay with the original, as with torch's optimizers."""
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
    """Turn a bare object into the copy that `state_of` describes; at its first use if its model does not exist yet."""
    module = state[COPIED]["handed"].module
    if module is None or is_made(module):
        _make(method, state[COPIED])
        return
    # a module that holds its own optimizer gets its contents only after the optimizer is there
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
    """Make the method's vectors again with one more group; all ranks do so when they have the same x."""
    if method.steps > 0 and not method.agrees():
        raise RuntimeError(
            "add_param_group in the middle of a round, when ranks have different parameters; allowed: at a round's "
            "end (steps_in_round is 0, and no average is under way), or after synchronize()"
        )
    if isinstance(method.optimizers.get("inner"), Split):
        raise ValueError("inner has matrices and others; allowed: all parameters when the optimizer is made")
    (added,) = trainable_groups([dict(group)], method.settings.model_copy(update={"weight_decay_on": "all"}))
    inner = cast(Any, method.optimizers.get("inner"))

    def add(groups: list[dict[str, Any]]) -> None:
        if inner is None:
            groups.append(added)
        else:
            check_keys([added], inner.defaults)
            inner.add_param_group(added)

    _lay_out_anew(method, add)


def unfreeze(method: Method) -> None:
    """From now on train what was frozen when the method was made and requires a gradient now.

    All ranks call it after a message has reported that some have such parameters. Disagreement if not all have unfrozen
    the same ones, RuntimeError if ranks do not have the same x.
    """
    newly = method.handed.unfrozen()
    names = [method.handed.name_of(entry) for _, entry in newly]
    check_agreement(method.comm, {"parameters that were unfrozen": names})
    if not method.agrees():
        raise RuntimeError(
            f"{names[0]} was unfrozen, but with these settings ranks never have the same x between two rounds: make a "
            "new optimizer after unfreezing, or pass parameters unfrozen and freeze them afterwards"
        )

    def extend(groups: list[dict[str, Any]]) -> None:
        for k, entry in newly:
            method.handed.frozen[k] = [other for other in method.handed.frozen[k] if other is not entry]
            groups[k]["params"].append(parameter_of(entry))
            if NAMES in groups[k]:
                groups[k][NAMES].append(entry[0] if isinstance(entry, tuple) else "")

    _lay_out_anew(method, extend)


def _lay_out_anew(method: Method, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Make the method again on the list of groups after `change`, and continue where it was."""
    if method.participation.joined:
        raise RuntimeError("inside join() parameters cannot be added or unfrozen: do it afterwards")
    if len(method.spaces) > 1:
        raise RuntimeError(
            f"{method.name} cannot add or unfreeze parameters; allowed: all of them when the optimizer is made"
        )
    state, before, groups = saved.collected(method), dict(method.__dict__), method.param_groups
    old, inner = [(group, list(group["params"])) for group in groups], cast(Any, method.optimizers.get("inner"))
    try:
        change(groups)
        handed = Grown(before["handed"], list(groups), inner)
        method.__dict__.clear()
        type(method).__init__(method, handed, before["settings"], before["comm"])
        _take_over(method, before, state)
    except BaseException:
        groups[:] = [group for group, _ in old]
        for group, parameters in old:
            group["params"][:] = parameters
        method.__dict__.clear()
        method.__dict__.update(before)
        method.space.bind(method.x)
        raise


def _take_over(method: Method, before: dict[str, Any], state: dict[str, Any]) -> None:
    """Continue from the previous method, with zeros for what it did not have."""
    # including what a scheduler or a GradScaler has added
    others = {key: value for key, value in before.items() if key not in method.__dict__}
    method.__dict__.update(others | hooks_in(before))
    method.on_round, method.step_scale = before["progress"].on_round, before["descent"].scale
    old, new, own = before["space"], method.space, state["hvdclip"]
    own["vectors"] = {name: _moved(flats, old, new) for name, flats in own["vectors"].items()}
    own["shape"] = saved.shape_of(method)
    for name, inside in method.optimizers.items():
        if isinstance(inside, OuterParts):
            raise RuntimeError(
                "averaging fragments with an outer step cannot add or unfreeze parameters, because the outer state "
                "belongs to the present parts; allowed: all of them when the optimizer is made"
            )
        if name != "inner":
            moved = _moved_state(state[name]["state"], old, new)
            state[name] = {"state": moved, "param_groups": inside.state_dict()["param_groups"]}
    places = {id(p): place for place, p in enumerate(new.parameters)}
    by_place = {places[id(old.parameters[place])]: value for place, value in state["state"].items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in method.param_groups]
    for packed, group in zip(saved.collected(method)["param_groups"], groups, strict=True):
        group["params"] = packed["params"]
    with torch.no_grad():
        saved.restore(method, state | {"state": by_place, "param_groups": groups})
    method._first_lr = before["_first_lr"]


def _moved(flats: list[torch.Tensor], old: Space, new: Space) -> list[torch.Tensor]:
    """A vector in its new space, with zeros for the parameters that it did not have."""
    vector = old.vector(dict(zip(old.numel, flats, strict=True)))
    longer, had = new.vector(), {id(p): part for p, part in zip(old.parameters, vector.parts, strict=True)}
    for p, part in zip(new.parameters, longer.parts, strict=True):
        if id(p) in had:
            part.copy_(had[id(p)])
    return longer.flats


def _moved_state(state: dict[int, dict[str, Any]], old: Space, new: Space) -> dict[int, dict[str, Any]]:
    """An outer optimizer's state: its tensors are as long as the flats, of which there is one for each dtype."""
    places, sizes = [list(new.numel).index(dtype) for dtype in old.numel], list(old.numel.values())
    moved = {place: dict(state[i]) for i, place in enumerate(places) if i in state}
    for key in {key for kept in state.values() for key in kept}:
        flats = [state.get(i, {}).get(key) for i in range(len(sizes))]
        if all(isinstance(flat, torch.Tensor) and flat.numel() == n for flat, n in zip(flats, sizes, strict=True)):
            longer = _moved(cast(Any, flats), old, new)
            for place in places:
                moved[place][key] = longer[place]
    return moved
