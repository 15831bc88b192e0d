"""A method's state: a loop over its named parts, saved, restored, and taken over by another number of ranks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hvdclip.engine.agreement import kind
from hvdclip.engine.torch_optimizer import plain
from hvdclip.settings import LocalSettings

if TYPE_CHECKING:
    from hvdclip.engine.method import Method

State = dict[str, Any]


class Stateful(Protocol):
    """A part with a state of its own: tensors, numbers and words."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def state_dict(method: Method) -> State:
    """torch's state_dict, the method's under "hvdclip", and those of the optimizers inside by their names."""
    method.wait()  # first, since what arrives may change the vectors
    state: State = plain("state_dict")(method)
    own = {
        "method": method.name,
        "shape": _shape(method),
        "statistics": method.statistics.state_dict(),
        "numbers": _copied(method.numbers, method.space.device),
        "vectors": {name: [flat.clone() for flat in v.flats] for name, v in method.vectors.items()},
    }
    for part in method.parts:
        own |= part.state_dict()
    return state | {"hvdclip": own} | {name: inside.state_dict() for name, inside in method.optimizers.items()}


def load_state_dict(method: Method, state: State) -> None:
    """Restore what `state_dict` gave; ValueError for the state of another method or of other parameters."""
    own = state.get("hvdclip", {})
    if own.get("method") != method.name:
        raise ValueError(f"the state is of method {own.get('method')!r}, this optimizer's method is {method.name!r}")
    own = _as_named_now(own)
    if _sorted(own["shape"]) != _sorted(_shape(method)):
        raise ValueError(f"the state is of {own['shape']}, this optimizer is of {_shape(method)}")
    method.wait()  # else what is under way would still write where the state goes
    groups = method.param_groups
    plain("load_state_dict")(method, state)
    method.statistics.load_state_dict(own["statistics"])
    method.numbers.clear()
    method.numbers.update(_copied(own["numbers"], method.space.device))
    for name, vector in method.vectors.items():
        torch._foreach_copy_(vector.flats, own["vectors"][name])
    for part in method.parts:
        part.load_state_dict(own)
    for name, inside in method.optimizers.items():
        inside.load_state_dict(state[name])
    _keep_list(method, groups)


def check_common(method: Method, reset: bool) -> None:
    """ValueError where another number of ranks cannot go on from the common state; `reset` does without the rest."""
    lasting, apart = method.apart_in_x(), method.kept_apart()
    if lasting or (apart and not reset):
        way_out = "" if lasting else "; checkpoint.other_ranks: reset begins that anew"
        raise ValueError(f"each rank of {method.name} keeps {', '.join([*apart, *lasting])}{way_out}")


def load_common_state(method: Method, state: State, reset: bool) -> None:
    """Restore the state of a rank of another number of ranks, without what each of those kept for itself."""
    check_common(method, reset)
    if method.kept_apart():
        state = _begun_anew(method, state)
    own = state["hvdclip"] | {"shape": _shape(method), "statistics": method.statistics.state_dict()}
    load_state_dict(method, state | {"hvdclip": own})


def _begun_anew(method: Method, state: State) -> State:
    """The state with all that a method keeps beside the common x as at the start, where this method still is."""
    now, own = state_dict(method), _as_named_now(state["hvdclip"])
    anew = {name: now["hvdclip"]["vectors"][name] for name in [*method.table, "error"] if name in method.vectors}
    own = own | {
        key: now["hvdclip"][key] for key in ("numbers", "fresh", "intervals", "draws") if key in now["hvdclip"]
    }
    if "inner" in state:
        state = state | {"inner": state["inner"] | {"state": {}}}
    return state | {"hvdclip": own | {"vectors": own["vectors"] | anew}}


def _keep_list(method: Method, groups: list[Any]) -> None:
    """Let `param_groups` be the list that it was: parts of the method, and an inner optimizer, read the same one."""
    inner: Any = method.optimizers.get("inner")
    loaded = method.param_groups if inner is None else inner.param_groups
    groups[:] = loaded
    method.param_groups = groups
    if inner is not None:
        inner.param_groups = groups


def _shape(method: Method) -> str:
    """What must be alike in the state and in the optimizer that it is loaded into, in words."""
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


def _as_named_now(own: State) -> State:
    """A state whose x_round still has the name that it had in the first releases."""
    vectors = dict(own["vectors"])
    if "common" not in vectors:
        return own
    shape = own["shape"].replace("x_round, common", "common").replace("common", "x_round")
    return own | {"shape": shape, "vectors": vectors | {"x_round": vectors.pop("common")}}


def _sorted(shape: str) -> str:
    """The words with the names of the state vectors in order: in which order they lie does not matter."""
    return re.sub(r"(?<=state vectors: )(.*?)(?=, inner)", lambda names: ", ".join(sorted(names[1].split(", "))), shape)


def _copied(numbers: Any, device: torch.device) -> Any:
    if isinstance(numbers, dict):
        return {name: _copied(value, device) for name, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return type(numbers)(_copied(value, device) for value in numbers)
    return numbers.clone().to(device) if isinstance(numbers, Tensor) else numbers
