"""A method's state: saved and loaded in a loop over its named parts, also by another number of ranks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from hvdclip.engine import broadcasts, from_torch
from hvdclip.engine.agreement import kind
from hvdclip.engine.groups import defaults_of
from hvdclip.engine.sgd import FusedSgd
from hvdclip.engine.torch_optimizer import plain
from hvdclip.settings import LocalSettings
from hvdclip.torch_private import foreach_copy_, hooks_around, without_hooks

if TYPE_CHECKING:
    from hvdclip.engine.method import Method

State = dict[str, Any]
# what each rank has for itself, but may take from another rank too, because all have the same at the start
FOR_ALL = (
    "its own momentum",
    "its own buffers (buffer_policy: keep)",
    "the state of its inner optimizer",
    "times by which interval auto chooses",
)


class Stateful(Protocol):
    """A part that has state: tensors, numbers and words."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def state_dict(method: Method) -> State:
    """torch's state_dict (that of an inner optimizer, or with the momentum), and the method's own under "hvdclip".

    Hooks see all of it. What torch's optimizers have for a parameter is in "state" only.
    """
    if broadcasts.horovod_asks():
        return broadcasts.state_for_horovod(method)
    before, after = hooks_around(method, "state_dict")
    for tell in before:
        tell(method)
    state = collected(method)
    for change in after:
        changed = change(method, state)
        state = state if changed is None else changed
    return state


def load_state_dict(method: Method, state: State) -> None:
    """Load what `state_dict` returned, or a state of a torch optimizer; ValueError for one that does not fit.

    The hooks are called around it: what the pre-hooks return is what is loaded.
    """
    state = dict(state)
    before, after = hooks_around(method, "load_state_dict")
    for change in before:
        changed = change(method, state)
        state = state if changed is None else changed
    if "hvdclip" in state:
        check_rank(method, state["hvdclip"])
        restore(method, state)
    else:
        from_torch.take_over(method, state)
    for tell in after:
        tell(method)


def collected(method: Method) -> State:
    """The whole state, without calling hooks."""
    method.wait()  # first, since what arrives may change the vectors
    own = {
        "method": method.name,
        "rank": method.comm.rank,
        "shape": shape_of(method),
        "statistics": method.statistics.state_dict(),
        "numbers": _copied(method.numbers, method.space.device),
        "vectors": {
            name: [flat.clone() for flat in v.flats] for name, v in method.vectors.items() if name != "momentum"
        },
    }
    for part in method.parts:
        own |= part.state_dict()
    others = {name: inside.state_dict() for name, inside in method.optimizers.items() if name != "inner"}
    return _torchs(method) | {"hvdclip": own} | others


def restore(method: Method, state: State) -> None:
    """Continue from what `collected` returned; ValueError for the state of another method or of other parameters."""
    state = as_now(method, state)
    own = state["hvdclip"]
    if _sorted(own["shape"]) != _sorted(shape_of(method)):
        raise ValueError(f"the state is of {own['shape']}, but this optimizer is of {shape_of(method)}")
    method.wait()  # otherwise what is under way would overwrite the loaded state
    load_groups(method, state)
    method.statistics.load_state_dict(own["statistics"])
    method.numbers.clear()
    method.numbers.update(_copied(own["numbers"], method.space.device))
    for name, vector in method.vectors.items():
        if name != "momentum":
            foreach_copy_(vector.flats, own["vectors"][name])
    load_momentum(method, state["state"])
    is_anothers = own.get("rank", method.comm.rank) != method.comm.rank
    kept = {"draws"} if is_anothers else set()  # each rank has its own noise
    for part in method.parts:
        part.load_state_dict(part.state_dict() | {k: v for k, v in own.items() if k not in kept})
    for name, inside in method.optimizers.items():
        if name != "inner":
            inside.load_state_dict(state[name])


def _torchs(method: Method) -> State:
    """The parts that a state_dict of a torch optimizer has."""
    inner: Any = method.optimizers.get("inner")
    if inner is not None:
        inside = dict(inner.state_dict())
        state = {"state": inside.pop("state", {}), "param_groups": inside.pop("param_groups")}
        return state | ({"inner": inside} if inside else {})
    with without_hooks(method):  # they would see only a part of the state
        packed: State = plain("state_dict")(method)
    places = [place for group in packed["param_groups"] for place in group["params"]]
    # not empty even without a momentum: Horovod would take a step to fill it
    packed["state"] = {place: {} for place in places}
    momentum = method.vectors.get("momentum")
    if momentum is not None:
        for place, part in zip(places, momentum.parts, strict=True):
            packed["state"][place]["momentum_buffer"] = part.clone()
    return packed


def load_groups(method: Method, state: State) -> None:
    """Make the groups as in the state, and make an inner optimizer continue from it."""
    groups, inner = method.param_groups, cast(Any, method.optimizers.get("inner"))
    if inner is not None:
        told = {key: state[key] for key in ("state", "param_groups")}
        inner.load_state_dict(state.get("inner", {}) | told)
    else:
        with without_hooks(method):
            plain("load_state_dict")(method, {"state": {}, "param_groups": state["param_groups"]})
        for group in method.param_groups:
            for key, value in defaults_of(method.settings).items():
                group.setdefault(key, value)  # states of older releases lack the momentum
    _keep_list(method, groups)


def load_momentum(method: Method, by_place: dict[Any, State]) -> None:
    """Take the momentum from a state of torch's, or reset it if that has none."""
    momentum, sgd = method.vectors.get("momentum"), method.__dict__.get("sgd")
    if momentum is None:
        return
    buffers = [by_place.get(i, {}).get("momentum_buffer") for i in range(len(momentum.parts))]
    for part, buffer in zip(momentum.parts, buffers, strict=True):
        part.zero_() if buffer is None else part.copy_(buffer)
    if isinstance(sgd, FusedSgd):
        sgd.begins_anew(all(buffer is None for buffer in buffers))


def check_rank(method: Method, own: State, any_rank: bool = False) -> None:
    """ValueError for another rank's state if it has something that only its own rank can use.

    With `any_rank` on that rank too, so that all ranks raise it.
    """
    ours = own.get("rank", method.comm.rank) == method.comm.rank and not any_rank
    apart = [words for words in method.kept_apart() if words not in FOR_ALL]
    if own.get("steps", 0) > 0 and apart and not ours and method.comm.size > 1:
        raise ValueError(
            f"the state is of rank {own['rank']}, but each rank of {method.name} keeps {', '.join(apart)}: save every "
            "rank's state_dict() and load each on its own rank, without a broadcast"
        )


def check_common(method: Method, reset: bool) -> None:
    """ValueError if another number of ranks cannot continue from the common state; `reset` resets the rest."""
    lasting, apart = method.apart_in_x(), method.kept_apart()
    if lasting or (apart and not reset):
        way_out = "" if lasting else "; checkpoint.other_ranks: reset starts without it"
        raise ValueError(f"each rank of {method.name} keeps {', '.join([*apart, *lasting])}{way_out}")


def load_common_state(method: Method, state: State, reset: bool) -> None:
    """Load the state of a rank of another number of ranks, without what each of those had for itself."""
    check_common(method, reset)
    state = as_now(method, state)
    if method.kept_apart():
        state = _begun_anew(method, state)
    anew = {"shape": shape_of(method), "statistics": method.statistics.state_dict(), "rank": method.comm.rank}
    restore(method, state | {"hvdclip": state["hvdclip"] | anew})


def _begun_anew(method: Method, state: State) -> State:
    """The state with everything besides the common x as at the start, which is where this method still is."""
    now, own = collected(method), state["hvdclip"]
    lasting = [name for name, vector in method.vectors.items() if any(vector is met for met in method.met)]
    names = [name for name in [*method.table, "error"] if name in own["vectors"] and name not in lasting]
    anew = {name: now["hvdclip"]["vectors"][name] for name in names}
    own = own | {
        key: now["hvdclip"][key] for key in ("numbers", "fresh", "intervals", "draws") if key in now["hvdclip"]
    }
    return state | {"state": now["state"], "hvdclip": own | {"vectors": own["vectors"] | anew}}


def _keep_list(method: Method, groups: list[Any]) -> None:
    """Keep `param_groups` the same list: parts of the method, and an inner optimizer, read it."""
    inner: Any = method.optimizers.get("inner")
    loaded = method.param_groups if inner is None else inner.param_groups
    groups[:] = loaded
    method.param_groups = groups
    if inner is not None:
        inner.param_groups = groups


def shape_of(method: Method) -> str:
    """What must be equal in a state and in the optimizer that loads it, in words."""
    settings, space = method.settings, method.space
    ways = {
        "state vectors": ", ".join(method.vectors) or "none",
        "inner": kind(getattr(settings, "inner", None)),
        "outer": getattr(settings, "outer", "none"),
    }
    if isinstance(settings, LocalSettings):
        ways |= {name: getattr(settings, name, "none") for name in ("overlap", "compression")}
    if getattr(settings, "fragments", None) is not None:
        ways["fragments"] = settings.fragments
    words = ", ".join(f"{name}: {way}" for name, way in ways.items())
    return f"{space.size} parameters{space.order}, {method.comm.size} ranks, {words}"


def as_now(method: Method, state: State) -> State:
    """A state of an older release converted to this one's format; ValueError for another method's state."""
    own = state.get("hvdclip", {})
    if own.get("method") != method.name:
        raise ValueError(
            f"the state is of method {own.get('method')!r}, but this optimizer's method is {method.name!r}"
        )
    own, inside = _as_named_now(own), dict(state.get("inner", {}))
    state = state | {"hvdclip": own}
    if "state" in inside:  # older releases stored the inner optimizer's state_dict here
        inside.pop("param_groups")
        state |= {"state": inside.pop("state"), "inner": inside}
    if "momentum" in own["vectors"]:
        vectors = dict(own["vectors"])
        parts = method.space.vector({flat.dtype: flat for flat in vectors.pop("momentum")}).parts
        buffers = {place: {"momentum_buffer": part} for place, part in enumerate(parts)}
        state |= {"state": buffers, "hvdclip": own | {"vectors": vectors}}
    return state


def _as_named_now(own: State) -> State:
    """A state whose x_round still has the name that it had in the first releases."""
    vectors = dict(own["vectors"])
    if "common" not in vectors:
        return own
    shape = own["shape"].replace("x_round, common", "common").replace("common", "x_round")
    return own | {"shape": shape, "vectors": vectors | {"x_round": vectors.pop("common")}}


def _sorted(shape: str) -> str:
    """The words with the names of the state vectors sorted: their order in the state does not matter."""
    return re.sub(r"(?<=state vectors: )(.*?)(?=, inner)", lambda names: ", ".join(sorted(names[1].split(", "))), shape)


def _copied(numbers: Any, device: torch.device) -> Any:
    if isinstance(numbers, dict):
        return {name: _copied(value, device) for name, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return type(numbers)(_copied(value, device) for value in numbers)
    return numbers.clone().to(device) if isinstance(numbers, Tensor) else numbers
