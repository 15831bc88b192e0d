"""One of torch's optimizers, whose step is left out where only a device knows of it, without a trace in its state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.skip import Skip
from hvdclip.flat import Vector

# which torch may fuse to one kernel that masks itself; it takes another form where its user leaves that open
FUSED = (torch.optim.Adam, torch.optim.AdamW)


class Masked:
    """Steps of `optimizer` on a device, which change nothing where `skip` leaves them out.

    Fused ones mask themselves. For others x and the state are put back, which needs a copy of both during the step.
    The host looks at the flag, and waits for it, where neither works: in the first step, before which there is no
    state, for state on the host (Adagrad, Adafactor), and for optimizers that are not torch's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, x: Vector, skip: Skip):
        self.optimizer, self.x, self.skip = optimizer, x, skip
        self.is_torchs = type(optimizer).__module__.split(".")[:2] == ["torch", "optim"]
        self._begun: set[int] = set()  # the parameters that have taken a step

    def step(self) -> None:
        """Move the parameters that have gradients; raises StepLeftOut where the host has looked."""
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
        """As GradScaler has it leave a step out."""
        optimizer: Any = self.optimizer
        optimizer.found_inf = self.skip.flag
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf

    @contextmanager
    def _on_device(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the optimizer keeps its counters of steps on the device too, if it can."""
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
            # they are the user's, and saved: on a CPU torch refuses "capturable"
            for group, its_own in zip(groups, before, strict=True):
                group.update(its_own)

    def _move_counters(self, parameters: Sequence[Tensor]) -> None:
        """Where another step, or a state that was loaded, has left them on the host."""
        for p in parameters:
            step = self.optimizer.state.get(p, {}).get("step")
            if isinstance(step, Tensor) and step.is_cpu:
                self.optimizer.state[p]["step"] = step.to(p.device, torch.float32, non_blocking=True)

    def _can_be_masked(self, parameters: Sequence[Tensor]) -> bool:
        values = (value for p in parameters for value in self.optimizer.state.get(p, {}).values())
        return self.is_torchs and not any(isinstance(v, Tensor) and v.is_cpu for v in values)

    def _state(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """Its tensors, those of one name and dtype together."""
        groups: dict[tuple[str, torch.dtype], list[Tensor]] = {}
        for p in parameters:
            for name, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    groups.setdefault((name, value.dtype), []).append(value)
        return list(groups.values())


def _form(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, bool]:
    """What a group has to say for its counters to lie on the device."""
    is_open = group.get("fused") is None and group.get("foreach") is None
    if type(optimizer) in FUSED and is_open and not (group["capturable"] or group["differentiable"]):
        return {"fused": True}
    return {"capturable": True} if group.get("capturable") is False and not group.get("fused") else {}
