"""Parameters as vectors: contiguous memory per dtype, of which the module's parameters are views."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter

import torch
from torch import Tensor, nn

from hvdclip.flat.norm import norm_of
from hvdclip.flat.owner import Owner
from hvdclip.flat.vector import HALVES, Gradient, Vector
from hvdclip.torch_private import flatten

DTYPES = (*HALVES, torch.float32, torch.float64)
# For a tensor of fewer floats a CPU needs longer to begin a reduction than to copy it beside others.
SMALL = 4096
# Steps between two looks at the module where all parameters have gradients; one that it has not any more has none.
LOOK_EVERY = 100
HAND_OVER = ("cpu", "cuda")  # devices of whose memory torch makes another tensor, by DLPack
NOT_SHARED = (
    "hvdclip trains it in memory of its own, which other processes do not see: let them read a copy, "
    "shared = copy.deepcopy(model).share_memory(), and refresh it by shared.load_state_dict(model.state_dict())"
)


class Space:
    """The shapes and dtypes of the parameters that are trained, and the vectors of that shape.

    Raises TypeError or ValueError for parameters that cannot lie in one vector: other dtypes than float16, bfloat16,
    float32 and float64, sparse ones, several devices.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = list(parameters)
        self.owner, self._looks = Owner(), 0
        for p in self.parameters:
            if hasattr(p, "device_mesh"):
                raise TypeError(
                    f"a parameter of shape {tuple(p.shape)} is a DTensor, of which a rank has a part (fully_shard, "
                    "tensor parallelism); allowed are tensors that each rank has as a whole"
                )
            if p.layout != torch.strided or p.dtype not in DTYPES:
                raise TypeError(
                    f"a parameter of shape {tuple(p.shape)} has dtype {p.dtype} and layout {p.layout}; allowed are "
                    "dense float16, bfloat16, float32 and float64 parameters"
                )
        devices = sorted({str(p.device) for p in self.parameters})
        if len(devices) != 1:
            raise ValueError(f"parameters lie on {', '.join(devices) or 'no device'}; all must lie on one device")
        self.device = self.parameters[0].device
        if self.device.type == "meta":
            raise TypeError(
                'the parameters are on the meta device, without numbers: call model.to_empty(device="cpu") and '
                "initialise them before hvdclip.optimizer(...)"
            )
        self._channels_last = [_is_channels_last(p) for p in self.parameters]
        self.numel: dict[torch.dtype, int] = {}
        for p in self.parameters:
            self.numel[p.dtype] = self.numel.get(p.dtype, 0) + p.numel()

    @property
    def widest(self) -> torch.dtype:
        """float64 where there are such parameters, else float32: what holds entries of all of them."""
        return torch.float64 if torch.float64 in self.numel else torch.float32

    def refuse_float16(self, method: str) -> None:
        """Raise TypeError where there are float16 parameters, whose squared gradients would underflow."""
        if torch.float16 in self.numel:
            raise TypeError(f"{method} squares gradients, for which float16 is too coarse; allowed: other dtypes")

    @property
    def size(self) -> int:
        """P, the number of trainable floats."""
        return sum(self.numel.values())

    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        """The gradient that lies in these tensors."""
        return Gradient(parts, norm_of((pick(parts) for pick in self._pickers), self.device))

    @cached_property
    def _pickers(self) -> list[Callable[[Sequence[Tensor]], list[Tensor]]]:
        """For each dtype, what takes its entries out of a vector's parts in few tensors."""
        return [
            _picker([(i, p.numel()) for i, p in enumerate(self.parameters) if p.dtype == dtype], self.device)
            for dtype in self.numel
        ]

    def vector(self, flats: dict[torch.dtype, Tensor] | None = None) -> Vector:
        """A vector on the given memory (one tensor per dtype), or a new one of zeros."""
        if flats is None:
            flats = {dtype: torch.zeros(n, dtype=dtype, device=self.device) for dtype, n in self.numel.items()}
        offsets = dict.fromkeys(flats, 0)
        parts = []
        for p, channels_last in zip(self.parameters, self._channels_last, strict=True):
            start = offsets[p.dtype]
            parts.append(_shaped(flats[p.dtype][start : start + p.numel()], p.shape, channels_last))
            offsets[p.dtype] = start + p.numel()
        return Vector(parts, [flats[dtype] for dtype in self.numel])

    @property
    def order(self) -> str:
        """In words, where entries lie in another order than that of the parameters' dimensions."""
        last = sum(self._channels_last)
        return f" ({last} of their tensors channels last)" if last else ""

    def in_order(self, parts: list[Tensor]) -> list[Tensor]:
        """The same gradients, each in the order in memory in which its parameter lies in x.

        Fused kernels walk memory; autograd may have made a gradient in another memory format.
        """
        if not any(self._channels_last):
            return parts if all(map(Tensor.is_contiguous, parts)) else [g.contiguous() for g in parts]
        return [
            g if _in_order(g, p) else torch.empty_like(p).copy_(g) for g, p in zip(parts, self.parameters, strict=True)
        ]

    def flatten(self, v: Vector, out: Tensor | None = None) -> Tensor:
        """The entries of v in the order of the parameters, (P,), in the dtype of `out`, or the widest."""
        dtype = self.widest if out is None else out.dtype
        return torch.cat([part.flatten().to(dtype) for part in v.parts], out=out)

    def unflatten(self, entries: Tensor) -> Vector:
        """The vector of these entries."""
        pieces = entries.split([p.numel() for p in self.parameters])
        return Vector([e.view(p.shape).to(p.dtype) for e, p in zip(pieces, self.parameters, strict=True)])

    def bind(self, x: Vector) -> None:
        """Move the parameters' values into x and make the parameters share its memory."""
        if self._is_shared():
            warnings.warn(f"the model lies in shared memory. {NOT_SHARED}", stacklevel=2)
        with torch.no_grad():
            for p, part in zip(self.parameters, x.parts, strict=True):
                part.copy_(p)
                p.data = in_own_storage(part)

        self._places = list(map(Tensor.data_ptr, self.parameters))

    def check_bound(self) -> None:
        """Raise RuntimeError when a parameter has other memory since bind, say by module.to(...), or was replaced."""
        if list(map(Tensor.data_ptr, self.parameters)) != self._places:
            if self._is_shared():
                raise RuntimeError(
                    f"the model was moved into shared memory, out of the optimizer's vector. {NOT_SHARED}"
                )
            raise RuntimeError(
                "the model's parameters no longer lie in the optimizer's vector: another hvdclip optimizer has taken "
                "them over, or the model was moved or cast (model.to, .half, an LSTM's flatten_parameters), which "
                "belongs before hvdclip.optimizer(...), not after"
            )
        self._looks += 1
        if self._looks % LOOK_EVERY == 0:
            self.owner.check_kept()

    def _is_shared(self) -> bool:
        return any(p.is_shared() for p in self.parameters if not p.is_cuda)


class Part(Space):
    """A run of the parameters of a space."""

    def __init__(self, whole: Space, places: slice):
        super().__init__(whole.parameters[places])
        self.places, self._dtypes = places, list(whole.numel)
        before = whole.parameters[: places.start]
        self._starts = {dtype: sum(p.numel() for p in before if p.dtype == dtype) for dtype in self.numel}

    def of(self, v: Vector) -> Vector:
        """This part of a vector of the whole space, in the same memory."""
        flats = dict(zip(self._dtypes, v.flats, strict=True))
        return self.vector({dtype: flats[dtype][i : i + self.numel[dtype]] for dtype, i in self._starts.items()})


def in_own_storage(part: Tensor) -> Tensor:
    """The same memory as a tensor with a storage of its own.

    Tensors of one storage are saved with all of it, and safetensors takes them for tied weights, of which it keeps one.
    """
    if part.device.type not in HAND_OVER:
        return part
    return torch.from_dlpack(part) if part.numel() else part.clone()


def _is_channels_last(p: Tensor) -> bool:
    return p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)


def _shaped(flat: Tensor, shape: torch.Size, channels_last: bool) -> Tensor:
    if not channels_last:
        return flat.view(shape)
    n, c, h, w = shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def _in_order(g: Tensor, p: Tensor) -> bool:
    return g.stride() == p.stride() or (g.is_contiguous() and p.is_contiguous())


def _picker(sizes: list[tuple[int, int]], device: torch.device) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    small = [i for i, size in sizes if size < SMALL]
    if device.type != "cpu" or len(small) < 2:
        all_of_them = [i for i, _ in sizes]
        return lambda parts: [parts[i] for i in all_of_them]
    large, few = [i for i, size in sizes if size >= SMALL], itemgetter(*small)
    return lambda parts: [*(parts[i] for i in large), flatten(few(parts))]
