"""The state of each parameter as torch's optimizers show it, stored in the method's own vectors."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

MOMENTUM = "momentum_buffer"  # torch's name


class Shown(UserDict[str, Any]):
    """The state of one parameter by name: writes are copied into the vectors; a momentum that is removed becomes zero.

    RuntimeError if another tensor of the method is removed. The user's own entries are only stored.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.data, self.lasting = dict(tensors), frozenset(tensors)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.lasting:
            self.data[name].copy_(value)
        else:
            self.data[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self.lasting:
            del self.data[name]
        elif name == MOMENTUM:
            self.data[name].zero_()
        else:
            raise RuntimeError(f"state {name!r} belongs to the method and cannot be removed: make a new optimizer")

    def clear(self) -> None:
        self.become({})

    def become(self, entry: Mapping[str, Any]) -> None:
        """Make this the only entry."""
        for name in [name for name in self.data if name not in entry]:
            del self[name]
        self.update(entry)


class State(UserDict[Any, Any]):
    """`optimizer.state`: by parameter what is shown of it; `clear()` resets the momentum."""

    def __init__(self, shown: Mapping[Any, Shown], reset: Callable[[], None] | None):
        self.data, self._reset = dict(shown), reset

    def __missing__(self, p: Any) -> dict[str, Any]:
        return self.data.setdefault(p, {})  # as in torch's defaultdict

    def __setitem__(self, p: Any, entry: Mapping[str, Any]) -> None:
        if isinstance(self.data.get(p), Shown):
            self.data[p].become(entry)
        else:
            self.data[p] = entry

    def __delitem__(self, p: Any) -> None:
        if isinstance(self.data[p], Shown):
            self.data[p].clear()
        else:
            del self.data[p]

    def clear(self) -> None:
        for p in list(self.data):
            del self[p]
        if self._reset is not None:
            self._reset()
