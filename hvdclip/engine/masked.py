"""A torch optimizer whose step can be left out without a trace in its state, even if only a device knows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.skip import Skip
from hvdclip.flat import Vector

# torch may fuse these to one kernel that masks itself; otherwise it takes another form if the user leaves that open
FUSED = (torch.optim.Adam, torch.optim.AdamW)


class Masked:
    """Steps of `optimizer` on a device, which change nothing if `skip` leaves them out.

    Fused optimizers mask themselves. For others x and the state are restored, which needs a copy of both during the
    step. The host reads the flag, and waits for it, if neither works: in the first step, before which there is no
    state, for state on the host (Adagrad, Adafactor), and for optimizers that are not torch's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, x: Vector, skip: Skip):
        self.optimizer, self.x, self.skip = optimizer, x, skip
        self.is_torchs = type(optimizer).__module__.split(".")[:2] == ["torch", "optim"]
        self._begun: set[int] = set()  # the parameters that have taken a step

    def step(self) -> None:
        """Move the parameters that have gradients; raises StepLeftOut if the host has read the flag."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        with self._on_device(parameters):
            begin = {id(p) for p in parameters} - self._begun
            if begin or not self._can_be_masked(parameters):
                self.skip.check()
                self._begun |= begin
                self.optimizer.step()
            elif all(group.get("fused") for group in self.optimizer.param_groups):
                self._step_fused()
            else:
                with self.skip.put_back([*([flat] for flat in self.x.flats), *self._state(parameters)]):
                    self.optimizer.step()

    def _step_fused(self) -> None:
        """Leave a step out as GradScaler does it."""
        optimizer: Any = self.optimizer
        optimizer.found_inf = self.skip.flag
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf

    @contextmanager
    def _on_device(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the optimizer's counters of steps are on the device too, if possible."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups if self.is_torchs else []
        before: list[dict[str, Any]] = [
            {key: group[key] for key in ("fused", "capturable") if key in group} for group in groups
        ]
        for group in groups:
            group.update(_form(self.optimizer, group))
        try:
            if any(group.get("fused") or group.get("capturable") for group in groups):
                self._move_counters(parameters)
            yield
        finally:
            # these settings are the user's, and are saved: on a CPU torch refuses "capturable"
            for group, its_own in zip(groups, before, strict=True):
                group.update(its_own)

    def _move_counters(self, parameters: Sequence[Tensor]) -> None:
        """Needed if another step, or a state that was loaded, has left them on the host."""
        for p in parameters:
            step = self.optimizer.state.get(p, {}).get("step")
            if isinstance(step, Tensor) and step.is_cpu:
                self.optimizer.state[p]["step"] = step.to(p.device, torch.float32, non_blocking=True)

    def _can_be_masked(self, parameters: Sequence[Tensor]) -> bool:
        values = (value for p in parameters for value in self.optimizer.state.get(p, {}).values())
        return self.is_torchs and not any(isinstance(v, Tensor) and v.is_cpu for v in values)

    def _state(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """Its tensors, grouped by name and dtype."""
        groups: dict[tuple[str, torch.dtype], list[Tensor]] = {}
        for p in parameters:
            for name, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    groups.setdefault((name, value.dtype), []).append(value)
        return list(groups.values())


def _form(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, bool]:
    """The settings that make a group's counters be on the device."""
    is_open = group.get("fused") is None and group.get("foreach") is None
    if type(optimizer) in FUSED and is_open and not (group["capturable"] or group["differentiable"]):
        return {"fused": True}
    return {"capturable": True} if group.get("capturable") is False and not group.get("fused") else {}
