"""One rank's state for all ranks, sent as Horovod's scripts do it."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

from hvdclip.engine import saved

if TYPE_CHECKING:
    from types import FrameType

    from hvdclip.engine.method import Method

# frames between Horovod's function and `state_dict`: hvdclip's own, and those of a wrapper around the optimizer
NEAR = 12


def horovod_asks() -> bool:
    """Whether hvd.broadcast_optimizer_state is the caller that reads the state."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(NEAR):
        if frame is None:
            return False
        if frame.f_code.co_name == "broadcast_optimizer_state":
            return frame.f_globals.get("__name__", "").startswith("horovod.")
        frame = frame.f_back
    return False


class ForHorovod(dict[str, Any]):
    """The one entry of a state that Horovod sees: it sends the root's value to all ranks, and writes it back here.

    Horovod would send tensor by tensor, and hang if the root's inner optimizer has tensors that others have not made.
    """

    def __init__(self, method: Method, state: dict[str, Any]):
        super().__init__(hvdclip=state)
        self.method = method

    def __setitem__(self, key: str, state: dict[str, Any]) -> None:
        take(self.method, state)


def state_for_horovod(method: Method) -> dict[str, Any]:
    """A state as Horovod walks through it: groups without options, because those come with the rest."""
    state = saved.collected(method)
    groups = [{"params": group["params"]} for group in state["param_groups"]]
    first = next(place for group in groups for place in group["params"])
    return {"state": {first: ForHorovod(method, state)}, "param_groups": groups}


def from_root(method: Method, root: int) -> None:
    """Take the state of rank `root`; all ranks call this."""
    rank, size = method.comm.rank, method.comm.size
    if not 0 <= root < size:
        raise ValueError(f"root is {root}; allowed: 0 to {size - 1}")
    states = method.comm.gather(saved.collected(method) if rank == root else None)
    take(method, states[root] if rank == root else copy.deepcopy(states[root]))


def take(method: Method, state: dict[str, Any]) -> None:
    """Continue from another rank's state; ValueError, on all ranks, if it cannot replace their own."""
    saved.check_rank(method, state["hvdclip"], any_rank=True)
    if state["hvdclip"]["rank"] != method.comm.rank:
        saved.restore(method, state)
