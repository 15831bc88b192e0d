"""The settings of averages, for methods that send only x."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hvdclip.settings.groups import Finite, LocalSettings, SgdSettings, ThresholdSettings, setting

PLAIN = {
    "averaging": "whole",
    "overlap": "none",
    "compression": "none",
    "node_interval": None,
    "warmup": "average",
    "state_intervals": None,
}


ESTIMATORS = "how the hyper-gradient is estimated: by a vector z that follows H z = Fy, or a sum of `terms` powers"


class AveragingSettings(LocalSettings):
    """Local methods that send only x."""

    warmup: Literal["average", "gradients"] = setting(
        "average", description="during warmup_steps: average x at every step, or step along the mean gradient"
    )
    overlap: Literal["none", "delayed"] = setting(
        "none",
        description="delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot",
    )
    delay: int | None = setting(
        None,
        ge=0,
        description="delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay",
        unit="steps",
    )
    merge_alpha: Finite | None = setting(
        None,
        ge=0,
        le=1,
        description="alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot",
    )
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = setting(
        "none", description="compression of the update x - x_round that is sent, with error feedback"
    )
    top_share: Finite = setting(0.01, gt=0, le=1, description="topk: share of the entries that are sent")
    node_interval: int | None = setting(
        None,
        ge=1,
        description="I1, local steps between averages inside a node; divides I, which is not auto",
        unit="steps",
    )

    averaging: Literal["whole", "fragments"] = setting(
        "whole", description="what an average takes: all of x, or one of `fragments` parts of it in turn"
    )
    fragments: int | None = setting(
        None, ge=1, description="F, parts of x for averaging: fragments; at most the number of tensors", unit="parts"
    )

    @property
    def warms_up_by_averages(self) -> bool:
        return self.warmup == "average"

    @property
    def beyond_plain(self) -> list[str]:
        """The names of the settings in `PLAIN` that have another value."""
        return [name for name, plain in PLAIN.items() if getattr(self, name, plain) != plain]

    @property
    def _intervals_to_fit(self) -> list[int]:
        # rounds of one step, as in a warm-up, contain no inner averages
        return [interval for interval in self.intervals if interval > 1] or [1]

    @model_validator(mode="after")
    def _delay_is_below_interval(self) -> Self:
        if self.delay is not None and self.overlap == "none":
            raise ValueError(f"delay is {self.delay}, but overlap is 'none'; allowed: no delay, or overlap delayed")
        if self.merge_alpha is not None and self.overlap == "none":
            raise ValueError(f"merge_alpha is {self.merge_alpha}, but overlap is 'none'; allowed: overlap delayed")
        if self.overlap == "delayed" and self.interval == "auto":
            raise ValueError("overlap is 'delayed', which hides the times that interval auto needs; allowed: numbers")
        if self.overlap == "delayed" and self.delay is None and max(self.intervals) == 1:
            raise ValueError(
                "overlap is 'delayed', but interval 1 has no steps during an average; allowed: none, or an "
                "interval above 1"
            )
        for interval in self._intervals_to_fit:
            if self.delay is not None and self.delay >= interval:
                allowed = f"0 to {interval - 1}" if interval > 1 else "0"
                raise ValueError(f"delay is {self.delay}, but interval {interval}; allowed: {allowed}")
        return self

    @model_validator(mode="after")
    def _node_interval_divides(self) -> Self:
        if self.node_interval is not None and self.interval == "auto":
            raise ValueError("node_interval must divide interval, but interval is auto; allowed: a number")
        for interval in self._intervals_to_fit:
            if self.node_interval is not None and interval % self.node_interval:
                raise ValueError(
                    f"node_interval is {self.node_interval}, interval {interval}; allowed: divisors of interval"
                )
        return self

    @model_validator(mode="after")
    def _fragments_have_a_number(self) -> Self:
        if (self.averaging == "fragments") != (self.fragments is not None):
            raise ValueError(
                f"averaging is {self.averaging!r} and fragments is {self.fragments}; allowed: averaging fragments with "
                "a number of fragments, or neither"
            )
        return self

    @model_validator(mode="after")
    def _x_round_is_common(self) -> Self:
        for name in ("overlap", "averaging") if self.needs_x_round else ():
            if getattr(self, name) != PLAIN[name]:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {PLAIN[name]}, because the local steps need the "
                    "common x at the start of their round"
                )
        return self

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.warmup == "gradients" and self.warmup_steps == 0:
            raise ValueError("warmup is 'gradients', which needs warmup_steps > 0")
        if self.compression != "topk" and "top_share" in self.model_fields_set and self.top_share != 0.01:
            raise ValueError(f"top_share is {self.top_share}, but compression is {self.compression!r}; allowed: topk")
        return self


class BilevelSettings(AveragingSettings):
    """Bilevel methods: upper parameters x, and lower parameters y, which minimise a loss of their own."""

    lower: Literal["shared", "own"] = setting(
        description="shared: one y, averaged with x; own: each rank has its own y"
    )
    lower_lr: Finite = setting(gt=0, description="alpha, the step size of y", unit="y/g")
    lower_l2: Finite = setting(0.0, ge=0, description="lambda, adds lambda/2 ||y||^2 to the lower loss", unit="g/y")
    warm_start: int = setting(3, ge=0, description="steps at the start in which only y moves", unit="steps")
    estimator: Literal["linear", "neumann"] = setting("linear", description=ESTIMATORS)
    z_lr: Finite | None = setting(
        None, gt=0, description="linear: nu, the step size of z; default lower_lr", unit="y/g"
    )
    theta: Finite | None = setting(
        None, gt=0, description="neumann: theta, the step size in the sum; default lower_lr", unit="y/g"
    )
    terms: int = setting(3, ge=1, description="neumann: Q, the number of terms", unit="terms")
    neumann_terms: Literal["sum", "drawn"] = setting(
        "sum", description="neumann: add all terms, or draw one and multiply it by `terms`"
    )
    momentum_policy: Literal["keep", "average"] = setting(
        "keep", description="keep each rank's m (and v) at an average, or average them too (longer messages)"
    )

    @model_validator(mode="after")
    def _travels_plainly(self) -> Self:
        if self.lower == "shared" and self.outer != "none":
            raise ValueError(
                f"outer is {self.outer!r}; allowed with lower shared: none, because more than x is averaged"
            )
        for name in self.beyond_plain if self.lower == "shared" or self.momentum_policy == "average" else ():
            raise ValueError(
                f"{name} is {getattr(self, name)!r}; allowed: {PLAIN[name] or 'none'}, or lower own with "
                "momentum_policy keep, because more than x is averaged"
            )
        return self

    @model_validator(mode="after")
    def _estimator_reads_it(self) -> Self:
        for name, estimator in (("z_lr", "linear"), ("theta", "neumann")):
            if getattr(self, name) is not None and self.estimator != estimator:
                raise ValueError(f"{name} is {getattr(self, name)}, but estimator is {self.estimator!r}; allowed: none")
        if self.neumann_terms != "sum" and self.estimator != "neumann":
            raise ValueError("neumann_terms is 'drawn', but estimator is 'linear'; allowed: sum")
        return self


class UpperStepSettings(BilevelSettings, ThresholdSettings):
    """Bilevel methods whose upper step is along a momentum."""

    upper_step: Literal["normalized", "clipped", "plain"] = setting(
        "normalized", description="the step of x: eta m/||m||, min(eta, gamma/||m||) m, or eta m"
    )
    beta: Finite = setting(0.9, ge=0, lt=1, description="weight of the past in the momentum m")

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        given = (self.gamma is not None) + (self.max_norm is not None)
        if given != self.clips:
            raise ValueError(
                f"upper_step is {self.upper_step!r}; allowed: "
                + ("exactly one of gamma and max_norm" if self.clips else "no gamma, no max_norm")
            )
        return self

    @property
    def clips(self) -> bool:
        return self.upper_step == "clipped"


class LocalSgdSettings(AveragingSettings, SgdSettings):
    """Local methods with an SGD step."""

    momentum_policy: Literal["keep", "average", "reset"] = setting(
        "keep", description="keep each rank's momentum at an average, average it (doubles the message), or reset it"
    )
    state_intervals: dict[str, Annotated[int, Field(ge=1)]] | None = setting(
        None,
        description="states of the inner optimizer to average with x, and how often: {state: rounds, ...}",
        unit="rounds",
    )

    @model_validator(mode="after")
    def _there_is_a_momentum(self) -> Self:
        if self.momentum_policy != "keep" and self.momentum == 0:
            raise ValueError(f"momentum_policy is {self.momentum_policy!r}, which needs momentum > 0")
        for name in self.beyond_plain if self.momentum_policy == "average" else ():
            raise ValueError(
                f"{name} is {getattr(self, name)!r}, which averages only x; allowed momentum_policy: keep, reset"
            )
        return self

    @model_validator(mode="after")
    def _states_go_with_plain_averages(self) -> Self:
        if self.state_intervals == {}:
            raise ValueError("state_intervals is {}; allowed: {state: rounds, ...}, or none")
        if self.state_intervals is not None and self.inner is None:
            raise ValueError(f"state_intervals is {self.state_intervals}, but inner is none; allowed: none")
        for name in ("overlap", "averaging", "compression") if self.state_intervals is not None else ():
            if getattr(self, name) != PLAIN[name]:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed with state_intervals: {PLAIN[name]}")
        return self
