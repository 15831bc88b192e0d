"""Whether a step is left out: the one place where this is decided, masked and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hvdclip.flat import Scalar
from hvdclip.messages import Statistics
from hvdclip.torch_private import flatten, foreach_copy_, unflatten


class StepLeftOut(Exception):
    """The current step is left out, and the host knows."""


class Skip:
    """Leaves out a rank's step if its gradient is not finite.

    `flag` is 1 if the current step is left out, otherwise 0. On a device the host does not wait for it: `Descent.move`
    masks itself with it, and `put_back` restores what else a step changes. If the flag is on the host, `check` ends the
    step.
    """

    def __init__(self, device: torch.device, statistics: Statistics):
        self.on_host = device.type == "cpu"
        self._statistics = statistics
        self._keep, self._leave_out = (torch.full((), float(out), device=device) for out in (False, True))
        self.flag = self._keep
        self._decided = False

    def begin(self) -> None:
        """A step begins; what happens before its own gradient is there does not decide it."""
        self._decided = False

    def decide(self, bad: Tensor | bool) -> None:
        """Leave the step out if its gradient is `bad`, and count it."""
        self._decided = True
        if isinstance(bad, Tensor):
            self.flag = bad.float()
            self._statistics.add("skipped", self.flag)
        else:
            self.flag = self._leave_out if bad else self._keep
            self._statistics.add("skipped", bad)

    def also(self, bad: Tensor | bool) -> None:
        """Leave the step out if a further gradient of it is `bad`."""
        before = self.flag
        if isinstance(bad, Tensor):
            self.flag = torch.maximum(before, bad.float())
        elif bad:
            self.flag = self._leave_out
        if self._decided:
            self._statistics.add("skipped", self.flag - before)

    def clear(self) -> None:
        """All ranks take the step together."""
        self.flag = torch.zeros_like(self.flag)

    @property
    def taken(self) -> Scalar:
        """1 for a step that is taken, otherwise 0: the increment of a counter of steps."""
        return 1 - int(self.flag.any()) if self.on_host else 1 - self.flag.double()

    def check(self) -> None:
        """Raise StepLeftOut if the step is left out: the only place where the host waits for a device to know."""
        if self.flag.any():
            raise StepLeftOut

    def check_on_host(self) -> None:
        """The same if it needs no wait; otherwise the step masks itself."""
        if self.on_host:
            self.check()

    @contextmanager
    def put_back(self, groups: Sequence[Sequence[Tensor]]) -> Iterator[None]:
        """Inside, a step may change these tensors, by dtype; afterwards they are restored if the step is left out."""
        before = [together(tensors) for tensors in groups]
        try:
            yield
        finally:
            for tensors, kept in zip(groups, before, strict=True):
                choose_(tensors, self.flag > 0, kept)


def together(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of them as one vector: on a device, the number of operations on hundreds of small tensors costs time."""
    flat = flatten(tensors)
    return flat.clone() if len(tensors) == 1 else flat  # with one tensor it is a view


def choose_(tensors: Sequence[Tensor], mask: Tensor, kept: Tensor) -> None:
    """If the mask, of one number, is true, they become what is stored in `kept`."""
    if len(tensors) == 1:
        (tensor,) = tensors
        torch.where(mask, kept.view_as(tensor), tensor, out=tensor)
        return
    now = flatten(tensors)
    foreach_copy_(list(tensors), list(unflatten(torch.where(mask, kept, now, out=now), tensors)))
