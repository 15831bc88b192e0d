"""A copy of the buffers after each step, to restore them if the next step is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hvdclip.engine.skip import together
from hvdclip.messages import Buffers
from hvdclip.torch_private import flatten, foreach_copy_, unflatten, writes_to


class Copy(NamedTuple):
    """Buffers of one dtype as one vector: there may be hundreds of small ones, at every step."""

    places: list[int]
    shapes: list[torch.Size]
    flat: Tensor

    def pairs(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each buffer with its copy, except one that has just got its shape: it has no value to go back to."""
        parts = self.flat.split([shape.numel() for shape in self.shapes])
        for place, shape, part in zip(self.places, self.shapes, parts, strict=True):
            tensor = tensors[place]
            if (tensor.shape, tensor.dtype, tensor.device) == (shape, part.dtype, part.device):
                yield tensor, part.view(shape)


class KeptBuffers:
    """A copy of the persistent buffers, so that a step that is left out does not change them.

    Forward passes change buffers before it is known that their step is left out: a NaN would stay in the running
    statistics forever. The copy is made when a step ends, because nothing announces the next forward pass.

    If something other than a step has written the parameters since, such as a model's load_state_dict, the copy is not
    the value at the start of the step. Then it replaces only buffers that are not finite.

    `always` says that steps may be left out; otherwise they are if a GradScaler is used, which the first step shows.
    """

    def __init__(self, buffers: Buffers, parameters: Sequence[Tensor], always: bool):
        self.on_host = all(parameter.is_cpu for parameter in parameters)
        self._buffers, self._parameters = buffers, parameters
        self._wanted: bool | None = True if always else None  # None before the first step
        self._copies: list[Copy] = []
        self._versions: list[int] = []
        self._is_of_now = False  # whether the current step began with the values of the copies

    def begin(self, scaled: bool) -> None:
        """A step begins; its gradients come from a GradScaler if it is `scaled`."""
        self._wanted = self._wanted or scaled
        self._is_of_now = bool(self._copies) and self._versions == self._written()

    def keep(self) -> None:
        """A step ends, or something else has changed the state."""
        tensors = [] if self._wanted is False else self._buffers.tensors()
        places: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, tensor in enumerate(tensors):
            places.setdefault((tensor.dtype, tensor.device), []).append(place)
        self._copies = [_copy(tensors, some) for some in places.values()]
        self._versions = self._written() if tensors else []

    def put_back(self, left_out: Tensor | None = None) -> None:
        """The step is left out, or is if that is above 0, so that the host need not wait for a device."""
        if not self._copies or (self.on_host and left_out is not None and not left_out.any()):
            return
        groups = [list(copy.pairs(self._buffers.tensors())) for copy in self._copies]
        mask = None if left_out is None or self.on_host else left_out > 0
        if not self._is_of_now:
            broken = ~_all_finite([tensor for pairs in groups for tensor, _ in pairs])
            mask = broken if mask is None else mask & broken.to(mask.device)
        for pairs in filter(None, groups):
            tensors, copies = [tensor for tensor, _ in pairs], [copy for _, copy in pairs]
            foreach_copy_(tensors, copies if mask is None else _where(mask, copies, tensors))

    def _written(self) -> list[int]:
        """How often something has written each parameter; writes through x do not count."""
        return [writes_to(parameter) for parameter in self._parameters]


def _copy(tensors: Sequence[Tensor], places: list[int]) -> Copy:
    some = [tensors[place] for place in places]
    return Copy(places, [tensor.shape for tensor in some], together(some).detach())


def _all_finite(tensors: Sequence[Tensor]) -> Tensor:
    found = [tensor.isfinite().all() for tensor in tensors]
    return torch.stack([each.to(found[0].device) for each in found]).all() if found else torch.tensor(True)


def _where(mask: Tensor, these: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """In few operations: on a device their number costs more than their size."""
    chosen = torch.where(mask.to(these[0].device), flatten(these), flatten(others))
    return list(unflatten(chosen, these))
