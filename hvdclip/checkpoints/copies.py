"""Copies of a state that is about to change."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def on_host(tree: Any, copy: bool = True) -> Any:
    """The same nested dicts, lists and tuples with the tensors' values in the host's memory.

    With `copy` all tensors get their own memory, otherwise only those of a GPU. Tied tensors stay one; a view is saved
    without the memory around it.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            # a view may start where another one starts
            place = value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
            if place not in copies:
                copies[place] = value.detach().to("cpu", copy=copy)
            return copies[place]
        if isinstance(value, dict):
            return {key: copied(inner) for key, inner in value.items()}
        return type(value)(map(copied, value)) if isinstance(value, list | tuple) else value

    return copied(tree)
