"""A pretended CUDA device, which counts how often the host waits for it; it needs no GPU.

Some of the host's memory is declared the device's: what is made there, and what is computed from it, lies there too.
Tensors keep their values, so that all code runs as it does on a GPU: `device`, `is_cuda` and `is_cpu` say so, and a
mixture of devices is an error. A wait is what would make a real GPU's host wait: a number that is read, a blocking
copy, an index by booleans, a synchronised event. The device computes nothing by itself, so times mean nothing here.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect, insort
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import optimizer as torchs
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # private, as are torch's names below: of torch 2.4 to 2.13
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
READ, WRITE, SENT, RECEIVED, EVENT = "read", "write", "sent", "received", "event"
WAITS = (READ, WRITE, EVENT)  # the others are copies that go on by themselves
aten = torch.ops.aten
# whose result has a shape, or is a number of Python's, that only the device knows
READING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
COPYING = {aten.copy_.default, aten._foreach_copy_.default}
FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
HERE = Path(__file__).parent.parent


class Device:
    """The device's memory and what the host did with it; `entered` in each thread that uses it."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._kept: dict[int, Any] = {}  # storages by where they begin; kept, so that no host memory comes to lie there
        self._pinned: dict[int, Any] = {}
        self.seen: dict[int, list[tuple[str, str]]] = {}  # (kind, where in the code), by thread
        self.behind = 0.0  # seconds that the device still needs for its work, which the next wait takes

    def has(self, tensor: Tensor) -> bool:
        place = bisect(self._starts, tensor.data_ptr()) - 1
        if tensor.numel() == 0 or place < 0:
            return False
        start = self._starts[place]
        return tensor.data_ptr() < start + self._kept[start].nbytes()

    def take(self, found: Any) -> Any:
        """Let tensors lie on the device."""
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.numel() and not self.has(tensor):
                storage = tensor.untyped_storage()
                self._kept[storage.data_ptr()] = storage
                insort(self._starts, storage.data_ptr())
        return found

    def pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def note(self, kind: str) -> None:
        self.seen.setdefault(get_ident(), []).append((kind, _where()))
        if kind in WAITS:
            time.sleep(self.behind)
            self.behind = 0.0

    def note_copy(self, to: Tensor, of: Tensor, non_blocking: bool) -> None:
        """A copy from the host, or to it, goes on by itself only if the host's memory is pinned."""
        if self.has(to) == self.has(of):
            return
        by_itself = non_blocking and self.is_pinned(of if self.has(to) else to)
        self.note((SENT if by_itself else WRITE) if self.has(to) else (RECEIVED if by_itself else READ))

    @contextmanager
    def noted(self) -> Iterator[list[tuple[str, str]]]:
        """The list of what this thread does inside, in pairs of its kind and the line of the code."""
        before, found = len(self.seen.setdefault(get_ident(), [])), list[tuple[str, str]]()
        yield found
        found += self.seen[get_ident()][before:]

    @contextmanager
    def there(self) -> Iterator[Device]:
        """Inside there is such a device, for threads that have it `entered`."""
        with ExitStack() as stack:
            for place, name, stand_in in self._stand_ins():
                stack.enter_context(mock.patch.object(place, name, stand_in))
            yield self

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, this thread uses the device."""
        with _Aten(self), _Python(self):
            yield

    def _stand_ins(self) -> list[tuple[Any, str, Any]]:
        """For what takes a device and is no function of tensors."""
        group = torchs._group_tensors_by_device_and_dtype

        def grouped(lists: Any, with_indices: bool = False) -> Any:
            found = group(lists, with_indices)
            return {
                (self.device_of(next(t for t in tensors[0] if t is not None)), dtype): (tensors, places)
                for (_, dtype), (tensors, places) in found.items()
            }

        return [
            (torch, "Generator", _Generator),
            (torchs, "_group_tensors_by_device_and_dtype", grouped),
            (torch.cuda, "Event", lambda *args, **kwargs: _Event(self)),
            (torch.cuda, "current_stream", lambda device=None: None),
        ]

    def device_of(self, tensor: Tensor) -> torch.device:
        return CUDA if self.has(tensor) else CPU


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")


class _Event:
    def __init__(self, device: Device):
        self._device = device

    def record(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None:
        self._device.note(EVENT)


class _Aten(TorchDispatchMode):
    """What torch's operations do, also those inside of others."""

    def __init__(self, device: Device):
        super().__init__()
        self.device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch would load its compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = kwargs or {}, self.device
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if device.has(tensor)]
        if there and func in COPYING:
            self._copy(func, args, kwargs)
        elif there:
            self._look_at(func, args, tensors)
        found = func(*args, **kwargs)
        return device.take(found) if there and func not in COPYING else found

    def _copy(self, func: Any, args: Any, kwargs: Any) -> None:
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        pairs = zip(args[0], args[1], strict=True) if isinstance(args[0], list | tuple) else [args[:2]]
        for to, of in pairs:
            self.device.note_copy(to, of, non_blocking)

    def _look_at(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        device = self.device
        if func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            for index in indices:
                if index.dtype in (torch.bool, torch.uint8):
                    device.note(READ)
                elif not device.has(index):
                    device.note(WRITE)
        elif func in READING:
            device.note(READ)
        elif any(tensor.dim() and tensor.numel() and not device.has(tensor) for tensor in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, cuda:0")


class _Python(TorchFunctionMode):
    """What Python asks of tensors, and where it wants them."""

    def __init__(self, device: Device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in ANSWERS:
            return ANSWERS[func](self.device, *args, **kwargs)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._moved(args[0], *self._where_to(func, *args[1:], **kwargs))
        wanted, pinned = kwargs.pop("device", None), kwargs.pop("pin_memory", False)
        wanted = None if wanted is None else torch.device(wanted)
        found = func(*args, **kwargs)
        if pinned:
            self.device.pin(found)
        if wanted is not None and isinstance(found, Tensor):
            found = self._placed(func, found, wanted)
        return found

    def _moved(self, tensor: Tensor, wanted: torch.device | None, dtype: Any, non_blocking: bool, form: Any) -> Tensor:
        """`to`, `cpu` and `cuda`."""
        converted = tensor if dtype is None else tensor.to(dtype)
        if form is not None:
            converted = converted.contiguous(memory_format=form)
        if wanted is None or wanted.type == self.device.device_of(tensor).type:
            return converted
        with _unseen():
            found = converted.detach().clone().requires_grad_(converted.requires_grad)
        if wanted.type == "cuda":
            self.device.take(found)
        self.device.note_copy(found, tensor, non_blocking)
        return found

    def _where_to(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """(device, dtype, non_blocking, memory format)"""
        if func is not Tensor.to:
            return CUDA if func is Tensor.cuda else CPU, None, kwargs.get("non_blocking", False), None
        kwargs.pop("copy", None)
        if args and isinstance(args[0], Tensor):
            kwargs |= {"device": self.device.device_of(args[0]), "dtype": args[0].dtype}
            args = ()
        return torch._C._nn._parse_to(*args, **kwargs)

    def _placed(self, func: Any, found: Tensor, wanted: torch.device) -> Tensor:
        if wanted.type == self.device.device_of(found).type or found.numel() == 0:
            return found
        if wanted.type == "cuda":
            if func in FROM_PYTHON:
                self.device.note(WRITE)
                with _unseen():
                    found = found.clone()
            return self.device.take(found)
        with _unseen():
            return found.clone()


@contextmanager
def _unseen() -> Iterator[None]:
    with torch._C._DisableTorchDispatch():
        yield


def _where() -> str:
    """The line of hvdclip, or of torch's optimizers, that has led here."""
    frame: Any = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HERE / "hvdclip"):
            return f"{path.relative_to(HERE)}:{frame.f_lineno} {frame.f_code.co_name}"
        if "torch/optim" in str(path):
            return f"torch/optim/{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _read_by(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)

    def read(device: Device, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if device.has(tensor):
            if name in ("numpy", "__array__") and not kwargs.get("force"):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            device.note(READ)
            with _unseen():
                return function(tensor.clone(), *args, **kwargs)
        return function(tensor, *args, **kwargs)

    return read


ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: lambda device, tensor: device.device_of(tensor),
    Tensor.is_cuda.__get__: lambda device, tensor: device.has(tensor),
    Tensor.is_cpu.__get__: lambda device, tensor: not device.has(tensor),
    Tensor.get_device: lambda device, tensor: 0 if device.has(tensor) else -1,
    Tensor.is_pinned: lambda device, tensor, *_: device.is_pinned(tensor),
    Tensor.pin_memory: lambda device, tensor, *_: device.pin(tensor.clone()),
    **{getattr(Tensor, name): _read_by(name) for name in ("numpy", "tolist", "__array__")},
}
