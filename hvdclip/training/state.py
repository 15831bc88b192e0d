"""A rank's state: everything from which its training continues, as tensors and numbers, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hvdclip.checkpoints.copies import on_host
from hvdclip.comm import Ledger
from hvdclip.torch_private import foreach_copy_

State = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """How a part of a run is saved, and how it continues on the same number of ranks, and on another number.

    Without `load_elsewhere` it continues there in the same way; `check_elsewhere` raises ValueError if it cannot.
    """

    save: Callable[[], Any]
    load: Callable[[Any], Any]
    load_elsewhere: Callable[[Any], Any] | None = None
    check_elsewhere: Callable[[], None] = lambda: None


class HasParts(Protocol):
    """What is saved: its parts by their keys in the state, in the order in which they are restored."""

    def parts(self) -> Mapping[str, Part]: ...


def state_of(run: HasParts) -> State:
    """The state at the end of a round, in its own memory.

    If a delayed average is under way, all ranks must call it.
    """
    moving = {key: part.save() for key, part in run.parts().items()}
    own = moving["optimizer"].pop("hvdclip")
    state: State = on_host(moving)
    state["optimizer"]["hvdclip"] = on_host(own, copy=False)  # these are copies already
    return state


@torch.no_grad()
def restore(run: HasParts, state: State) -> None:
    """Continue from the state of the same rank, in a run with the same number of ranks."""
    for key, part in run.parts().items():
        _go_on(part.load, state, key)


@torch.no_grad()
def restore_elsewhere(run: HasParts, state: State) -> None:
    """Continue from the state of rank 0 in a run with another number of ranks, after the same share of the epoch.

    ValueError if the ranks of that run had state of their own, unless `checkpoint.other_ranks` is "reset".
    """
    check_elsewhere(run)
    for key, part in run.parts().items():
        _go_on(part.load_elsewhere or part.load, state, key)


def _go_on(load: Callable[[Any], Any], state: State, key: str) -> None:
    if load is not leave:  # what is not needed may be missing, such as the scaler in older states
        load(state[key])


def check_elsewhere(run: HasParts) -> None:
    """ValueError if such a run could not continue on another number of ranks."""
    for part in run.parts().values():
        part.check_elsewhere()


def leave(_: Any) -> None:
    """What a rank has for itself is reset on another number of ranks."""


def part_of(thing: Any) -> Part:
    """A part whose state is a state_dict."""
    return Part(thing.state_dict, thing.load_state_dict)


def nothing() -> Part:
    """A part that this run does not have; the key exists all the same."""
    return Part(dict, leave)


def vectors(flats: list[Tensor]) -> Part:
    return Part(lambda: flats, partial(foreach_copy_, flats))


def buffers(model: nn.Module, loaded: Callable[[], None]) -> Part:
    def load(values: dict[str, Tensor]) -> None:
        for name, buffer in model.named_buffers():
            buffer.copy_(values[name])
        loaded()

    return Part(lambda: dict(model.named_buffers()), load)


def rows(kept: list[dict[str, Any]]) -> Part:
    def load(saved: list[dict[str, Any]]) -> None:
        kept[:] = saved

    return Part(lambda: kept, load)


def tallies(ledger: Ledger) -> Part:
    """What was communicated before, to which the current attempt adds its own."""

    def save() -> dict[str, tuple[int, int, float]]:
        return {p: (ledger[p].collectives, ledger[p].bytes, ledger[p].seconds) for p in ledger.purposes()}

    def load(saved: dict[str, tuple[int, int, float]]) -> None:
        for purpose, (collectives, payload, seconds) in saved.items():
            tally = ledger[purpose]
            tally.collectives += collectives
            tally.bytes += payload
            tally.seconds += seconds

    return Part(save, load)
