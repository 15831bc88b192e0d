"""Models on no device, to learn their shapes or whether they can be built at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_no_device() -> Iterator[None]:
    """Inside, models are on no device and have no initial values."""
    with torch.device("meta"), _Undrawing():
        yield


class _Undrawing(TorchFunctionMode):
    """On no device torch draws normal values through its compiler, whose import takes longer than everything else."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.normal_ or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
