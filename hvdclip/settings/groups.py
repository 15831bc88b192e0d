"""The settings that methods share, each group once; a method's own Settings class combines its groups."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from hvdclip.settings.inner import ByShape, optimizer_of

BufferPolicy = Literal["average", "keep", "broadcast"]


def setting(default: Any = ..., *, description: str, unit: str = "", **limits: Any) -> Any:
    """A setting; in its unit x is the unit of the parameters, and g that of the gradient."""
    return Field(default, description=description, json_schema_extra={"unit": unit}, **limits)


def _pythons(value: Any) -> Any:
    """NumPy's numbers as Python's numbers."""
    if isinstance(value, dict):
        return {_pythons(key): _pythons(inner) for key, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value


Positive = Annotated[float, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class CommonSettings(BaseModel):
    """The settings that every method has."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, frozen=True)

    lr: Finite = setting(gt=0, description="eta, the step size", unit="x/g")
    weight_decay: Finite = setting(0.0, ge=0, description="wd, added to the direction as wd * x", unit="g/x")
    weight_decay_on: Literal["all", "weights"] = setting(
        "all",
        description="decay all parameters, or only those of several dimensions (no norms, no biases); needs a module",
    )
    on_nonfinite: Literal["raise", "skip"] = setting(
        "raise",
        description="a gradient that is not finite on one rank: an error on all ranks, or that step is left out",
    )
    weight: Positive = setting(
        1.0,
        description="this rank's weight in every mean over the ranks, for example its number of samples",
        allow_inf_nan=False,
    )
    buffer_policy: BufferPolicy | dict[str, BufferPolicy] = setting(
        "average",
        description="the module's buffers at an average: average batch-norm statistics and take others from rank 0, "
        "take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...}",
    )

    @field_validator("buffer_policy", mode="before")
    @classmethod
    def _is_policy(cls, policy: Any) -> Any:
        given = policy if isinstance(policy, dict) else {"": policy}
        if not all(isinstance(name, str) and way in get_args(BufferPolicy) for name, way in given.items()):
            raise ValueError(
                "allowed are 'average', 'keep', 'broadcast', or {pattern of buffers' names: one of these, ...}"
            )
        return policy

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_pythons(cls, given: Any) -> Any:
        return {name: _pythons(value) for name, value in given.items()} if isinstance(given, dict) else given


class OuterSettings(CommonSettings):
    """The outer step; without one, x becomes the mean of the ranks' x."""

    outer: Literal["none", "sgd", "nesterov", "adam"] = setting(
        "none", description="optimizer that steps after each round with x_round - mean x as its gradient"
    )
    outer_lr: Finite | None = setting(
        None, gt=0, description="step size of outer; sgd with 1 and no momentum is the plain mean", unit="1 (adam: x)"
    )
    outer_momentum: Finite = setting(0.9, ge=0, lt=1, description="momentum of outer (sgd, nesterov)")
    outer_beta1: Finite = setting(0.9, ge=0, lt=1, description="decay rate of outer's first moment (adam)")
    outer_beta2: Finite = setting(0.99, ge=0, lt=1, description="decay rate of outer's second moment (adam)")

    @model_validator(mode="after")
    def _outer_is_whole(self) -> Self:
        used = {"none": [], "adam": ["lr", "beta1", "beta2"]}.get(self.outer, ["lr", "momentum"])
        for name in ("lr", "momentum", "beta1", "beta2"):
            field = f"outer_{name}"
            if name not in used and getattr(self, field) != OuterSettings.model_fields[field].default:
                raise ValueError(
                    f"{field} is {getattr(self, field)}, but outer is {self.outer!r}, which does not use it"
                )
        if self.outer != "none" and self.outer_lr is None:
            raise ValueError(f"outer is {self.outer!r}, which needs outer_lr")
        if self.outer == "nesterov" and self.outer_momentum == 0:
            raise ValueError("outer: nesterov needs outer_momentum > 0")
        return self


class LocalSettings(OuterSettings):
    """Local methods: an average of the parameters every I steps."""

    interval: int | dict[int, int] | Literal["auto"] = setting(
        1, description="I, the local steps between two averages: a number, {from step: I, ...}, or auto", unit="steps"
    )
    warmup_steps: int = setting(0, ge=0, description="steps at the start in which I is 1", unit="steps")
    lr_policy: Literal["same", "own"] = setting(
        "same", description="same: different learning rates are an error; own: each rank may have its own"
    )
    drift: bool = setting(
        True, description="measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it"
    )
    drift_budget: Finite | None = setting(
        None, gt=0, description="interval auto: the largest drift that a choice of I may lead to", unit="x"
    )

    @field_validator("interval", mode="before")
    @classmethod
    def _is_interval(cls, interval: Any) -> Any:
        given = interval if isinstance(interval, dict) else {0: interval}
        whole = all(type(number) is int for pair in given.items() for number in pair)
        if interval != "auto" and not (whole and 0 in given and min(given) == 0 and min(given.values()) >= 1):
            raise ValueError("allowed are integers from 1, {0: I, from step: I, ...} with such integers, and auto")
        return interval

    @model_validator(mode="after")
    def _budget_is_for_auto(self) -> Self:
        if self.drift_budget is not None and not (self.interval == "auto" and self.drift):
            raise ValueError(f"drift_budget is {self.drift_budget}, which needs interval auto and drift True")
        return self

    @model_validator(mode="after")
    def _warm_up_changes_something(self) -> Self:
        first = {self._given[start] for start in self._given if start < self.warmup_steps}
        if self.warms_up_by_averages and first == {1} and self.interval != "auto":
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but interval is 1 until then; allowed: 0, or an interval above 1"
            )
        return self

    @property
    def warms_up_by_averages(self) -> bool:
        return True

    @property
    def needs_x_round(self) -> bool:
        """Whether the local steps need the common x with which their round began."""
        return False

    @property
    def _given(self) -> dict[int, int]:
        if isinstance(self.interval, dict):
            return self.interval
        return {0: 1 if self.interval == "auto" else self.interval}

    @property
    def starts(self) -> dict[int, int]:
        """I by the first step at which it applies."""
        given = self._given
        if not self.warmup_steps:
            return given
        present = given[max(start for start in given if start <= self.warmup_steps)]
        later = {start: interval for start, interval in given.items() if start > self.warmup_steps}
        return {0: 1, self.warmup_steps: present, **later}

    @property
    def intervals(self) -> list[int]:
        """All values of I that are known in advance."""
        return list(self.starts.values())


class SgdSettings(CommonSettings):
    """Methods whose step is that of SGD, or of any torch optimizer."""

    momentum: Finite = setting(0.0, ge=0, lt=1, description="momentum of the step")
    dampening: Finite = setting(0.0, ge=0, le=1, description="dampening of the momentum")
    nesterov: bool = setting(False, description="Nesterov's form of the momentum")
    inner: Any = setting(
        None,
        description="a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or "
        "instance); or two: {matrices: ..., others: ...}",
    )

    @property
    def clips_update(self) -> bool:
        """Whether clipping uses the norm of the update; otherwise that of the raw gradient."""
        return False

    @field_validator("inner")
    @classmethod
    def _is_optimizer(cls, inner: Any) -> Any:
        return optimizer_of(inner)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov is True, which needs momentum > 0 and dampening 0")
        # each of two optimizers may have its own learning rate
        makers = list(self.inner.parts.values()) if isinstance(self.inner, ByShape) else [self.inner]
        for key in ({"weight_decay"} & self.model_fields_set) | ({"lr"} if len(makers) == 1 else set()):
            given = getattr(self, key)
            for own in (getattr(maker, "keywords", {}).get(key, given) for maker in makers):
                if own != given:
                    raise ValueError(
                        f"inner's {key} is {own}, but {key} is {given}; allowed: equal values, or only one of them"
                    )
        if self.inner is not None and (self.momentum or self.nesterov or self.dampening):
            raise ValueError(
                "with inner, allowed are momentum, dampening and nesterov as settings of the inner optimizer"
            )
        return self


class ThresholdSettings(CommonSettings):
    """Methods with a threshold, named as in the papers (gamma) or as in torch (max_norm)."""

    gamma: Positive | None = setting(
        None, description="upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm", unit="x"
    )
    max_norm: Positive | None = setting(
        None, description="upper limit on the norm of the gradient; gamma = lr * max_norm", unit="g"
    )
    gamma_follows_lr: bool = setting(True, description="learning-rate schedules scale gamma with lr")

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.gamma is None) == (self.max_norm is None):
            raise ValueError("exactly one of gamma and max_norm must be given")
        return self

    @property
    def clips(self) -> bool:
        """Whether there is a threshold."""
        return True

    @property
    def threshold(self) -> float:
        """c = gamma/eta at the constructor's lr: the threshold on the norm."""
        return self.max_norm if self.max_norm is not None else self.gamma / self.lr  # type: ignore[operator]


class ClippedSgdSettings(SgdSettings, ThresholdSettings):
    """Methods that clip and then take an SGD step."""

    norm_of: Literal["gradient", "update"] = setting(
        "gradient",
        description="which norm is clipped: of the raw gradient, or of the update with weight decay and momentum",
    )

    @property
    def clips_update(self) -> bool:
        return self.norm_of == "update"

    @model_validator(mode="after")
    def _norm_is_known(self) -> Self:
        if self.inner is not None and self.norm_of == "update":
            raise ValueError("norm_of is 'update', which is not known before the step of inner; allowed: gradient")
        return self
