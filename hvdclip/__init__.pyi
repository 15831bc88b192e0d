"""hvdclip: every rank takes its own clipped steps, and the ranks average their parameters every I steps.

Made from the code by `python jobs/stub.py`; a test holds it against the code.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVar, overload

from torch import nn
from torch.optim import Optimizer

from hvdclip import comm as comm
from hvdclip import methods as methods
from hvdclip.comm import Communicator as Communicator
from hvdclip.comm import simulate as simulate
from hvdclip.methods import Method
from hvdclip.methods import NonFiniteGradient as NonFiniteGradient

__all__ = ["Communicator", "NonFiniteGradient", "algorithms", "optimizer", "register", "simulate"]
__version__: str

_Parameters: TypeAlias = (
    nn.Module | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]] | Iterable[dict[str, Any]]
)
_BufferPolicy: TypeAlias = Literal["average", "keep", "broadcast"]
_M = TypeVar("_M", bound=Method)

def algorithms() -> list[dict[str, str]]:
    """The algorithms by name, with formula, paper and costs (P is the number of trainable floats).

    `message` is what a rank sends to collectives, `memory` what it needs besides x and its gradient (without momentum,
    drift measurement and outer step), `peak` that at the peak of a step on a CPU, all in floats.
    """

def register(chosen: type[_M]) -> type[_M]:
    """Add your own method under its `name`; usable as a decorator.

    Raises TypeError for an incomplete method, and ValueError for a name that another method has.
    """

@overload
def optimizer(
    name: Literal["local_sgd"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    momentum_policy: Literal["keep", "average", "reset"] = "keep",
    state_intervals: dict[str, int] | None = None,
) -> Method:
    """x_i -= eta d_i; every I steps x_i = mean x.

    McMahan et al., AISTATS 2017; Stich, ICLR 2019.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        momentum_policy: keep each rank's momentum at an average, average it (doubles the message), or reset it; default
            "keep"
        state_intervals: states of the inner optimizer to average with x, and how often: {state: rounds, ...}; unit
            rounds; default None
    """

@overload
def optimizer(
    name: Literal["celgc"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    norm_of: Literal["gradient", "update"] = "gradient",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    momentum_policy: Literal["keep", "average", "reset"] = "keep",
    state_intervals: dict[str, int] | None = None,
) -> Method:
    """x_i -= min(eta, gamma/||g_i||) d_i; every I steps x_i = mean x.

    Liu, Zhuang, Lei, Liao, NeurIPS 2022, Algorithm 1.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        norm_of: which norm is clipped: of the raw gradient, or of the update with weight decay and momentum; default
            "gradient"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        momentum_policy: keep each rank's momentum at an average, average it (doubles the message), or reset it; default
            "keep"
        state_intervals: states of the inner optimizer to average with x, and how often: {state: rounds, ...}; unit
            rounds; default None
    """

@overload
def optimizer(
    name: Literal["fedprox"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    momentum_policy: Literal["keep", "average", "reset"] = "keep",
    state_intervals: dict[str, int] | None = None,
    mu: float,
) -> Method:
    """g_i += mu (x_i - x_round); x_i -= eta d_i; every I steps x_i = mean x.

    Li et al., MLSys 2020.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        momentum_policy: keep each rank's momentum at an average, average it (doubles the message), or reset it; default
            "keep"
        state_intervals: states of the inner optimizer to average with x, and how often: {state: rounds, ...}; unit
            rounds; default None
        mu: mu, weight of the proximal term mu/2 ||x - x_round||^2; unit g/x
    """

@overload
def optimizer(
    name: Literal["scaffold"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    momentum: float = 0.0,
    option: Literal["I", "II"] = "II",
) -> Method:
    """x_i -= eta (g_i - c_i + c); every I steps c_i+ = c_i - c + (x_round - x_i)/(I eta) (option II) or a gradient at
    x_round (option I), c += mean(c_i+ - c_i), x_i = mean x.

    Karimireddy et al., ICML 2020, Algorithm 1.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        momentum: momentum of g + wd*x; without the correction; default 0.0
        option: c_i+ from a fresh gradient at x_round, one more per round (I), or from x_round - x_i (II); default "II"
    """

@overload
def optimizer(
    name: Literal["scaffold_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    momentum: float = 0.0,
) -> Method:
    """u_i = g_i - c_i + c; x_i -= min(eta, gamma/||u_i||) u_i; every I steps c_i+ = mean g_i, x_i = mean x.

    Karimireddy et al., ICML 2020; Crawshaw, Bao, Liu, ICLR 2023.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        momentum: momentum of g + wd*x; without the correction; default 0.0
    """

@overload
def optimizer(
    name: Literal["episode"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    momentum: float = 0.0,
) -> Method:
    """G_i = fresh gradient at x_round, G = mean G_i; u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, else
    gamma u_i/||u_i||; every I steps x_i = mean x.

    Crawshaw, Bao, Liu, ICLR 2023, Algorithm 1.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        momentum: momentum of g + wd*x; without the correction; default 0.0
    """

@overload
def optimizer(
    name: Literal["episode_pp"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    momentum: float = 0.0,
    participants: int,
    sampling_seed: int = 0,
) -> Method:
    """S of N ranks step: u_i = g_i - G_i + G; x_i -= eta u_i if ||G|| <= gamma/eta, else gamma u_i/||u_i||; every I
    steps G_i = mean of the round's g_i, G += sum_S dG_i/N, x = mean_S x_i.

    Crawshaw, Bao, Liu, NeurIPS 2023.
    eta is lr, I is interval, S is participants.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        momentum: momentum of g + wd*x; without the correction; default 0.0
        participants: S, ranks that take part in a round, drawn without replacement; unit ranks
        sampling_seed: a round's ranks are drawn from (sampling_seed, round); default 0
    """

@overload
def optimizer(
    name: Literal["delta_gclip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    delta: float,
) -> Method:
    """x_i -= eta min(1, max(delta, c/||g_i||)) g_i; every I steps x_i = mean x.

    Tucat et al., TMLR 2025.
    eta is lr, c is max_norm (or gamma/eta), I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        delta: delta, the smallest share of eta that a step has
    """

@overload
def optimizer(
    name: Literal["mix_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    beta: float = 0.9,
    nu: float = 0.7,
) -> Method:
    """m_i = beta m_i + (1-beta) g_i; x_i -= nu eta/(1 + eta||m_i||/gamma) m_i + (1-nu) eta/(1 + eta||g_i||/gamma) g_i;
    every I steps x_i = mean x.

    Zhang, Jin, Fang, Wang, NeurIPS 2020, Algorithm 1.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        beta: beta, weight of the past in the momentum; default 0.9
        nu: nu, share of the step along the momentum; default 0.7
    """

@overload
def optimizer(
    name: Literal["mom_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    beta: float = 0.9,
) -> Method:
    """m_i = beta m_i + (1-beta) g_i; x_i -= eta/(1 + eta||m_i||/gamma) m_i; every I steps x_i = mean x.

    Zhang, Jin, Fang, Wang, NeurIPS 2020, Algorithm 1.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        beta: beta, weight of the past in the momentum; default 0.9
    """

@overload
def optimizer(
    name: Literal["normalized_sgd"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    momentum: float = 0.0,
) -> Method:
    """m_i = beta m_i + g_i; x_i -= eta m_i/||m_i||; every I steps x_i = mean x.

    Hazan, Levy, Shalev-Shwartz, NeurIPS 2015; Cutkosky, Mehta, ICML 2020.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        momentum: beta, momentum taken before the norm; default 0.0
    """

@overload
def optimizer(
    name: Literal["ian_sgd"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    beta: float,
    a: float = 1.0,
    delta: float,
    floor: float,
) -> Method:
    """h_i = max(a ||g_i'|| + delta, Gamma); x_i -= eta g_i/h_i^beta; every I steps x_i = mean x.

    Yang, Tripp, Sun, Zou, Zhou, 2024.
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        beta: beta, power of the norm
        a: a, weight of the norm of the independent gradient g'; default 1.0
        delta: delta, added to that weighted norm; unit g
        floor: Gamma, the smallest h; unit g
    """

@overload
def optimizer(
    name: Literal["sgdol"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float = 1.0,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    M: float = 10.0,
    alpha: float = 10.0,
) -> Method:
    """eta_t = (alpha + sum <g_s, g_s'>)/(M (alpha + sum ||g_s||^2)), s < t, within [0, 2/M]; x_i -= lr eta_t g_i; every
    I steps x_i = mean x.

    Zhuang, Cutkosky, Orabona, ICML 2019.
    lr multiplies the learnt step size, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: multiplies the learnt step size eta_t; 1 is the paper's rule; unit 1; default 1.0
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        M: M, smoothness: eta_1 = 1/M, and eta_t is at most 2/M; unit g/x; default 10.0
        alpha: alpha, weight of the first step size among those learnt; unit g^2; default 10.0
    """

@overload
def optimizer(
    name: Literal["adam_prox"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-08,
) -> Method:
    """m_i, v_i = Adam's moments of g_i; x_i = (x_i - lr m_i^/(sqrt(v_i^) + eps))/(1 + wd lr/lr_0); every I steps x_i =
    mean x.

    Zhuang, Liu, Cutkosky, Orabona, TMLR 2022.
    lr is the current step size, lr_0 the constructor's, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        beta1: decay rate of the first moment m; default 0.9
        beta2: decay rate of the second moment v; default 0.999
        eps: eps, added to sqrt(v^); unit g; default 1e-08
    """

@overload
def optimizer(
    name: Literal["spider_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    anchor_every: int,
    anchor_batches: int = 1,
) -> Method:
    """every q steps v_i = mean of anchor_batches gradients, else v_i += g_i(x_t; B) - g_i(x_{t-1}; B); x_i -= min(eta,
    gamma/||v_i||) v_i; every I steps x_i = mean x.

    Reisizadeh, Li, Das, Jadbabaie, 2023.
    eta is lr, q is anchor_every, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        anchor_every: q, steps between two large batches; unit steps
        anchor_batches: batches in a large batch; unit batches; default 1
    """

@overload
def optimizer(
    name: Literal["sketched"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    width: int,
    sketch_seed: int = 0,
    server_lr: float,
    server_beta1: float = 0.9,
    server_beta2: float = 0.99,
    server_eps: float = 1e-08,
) -> Method:
    """x_i -= min(eta, gamma/||g_i||) g_i; every I steps d = unsketch(mean sketch(x_round - x_i)), x = x_round -
    server_lr m/(sqrt(v_max) + eps) with AMSGrad's moments of d.

    Chen, Li, Banerjee, 2024 (SAFL).
    eta is lr, b is width, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        width: b, floats of the sketch; unit floats
        sketch_seed: a round's sketch is drawn from (sketch_seed, round); default 0
        server_lr: step size of the server's step; unit x
        server_beta1: decay rate of the server step's first moment m; default 0.9
        server_beta2: decay rate of the server step's second moment v; default 0.99
        server_eps: eps, added to sqrt(v_max); unit x; default 1e-08
    """

@overload
def optimizer(
    name: Literal["minibatch_sgd"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
) -> Method:
    """x -= eta d, d from mean g_i.

    Dekel, Gilad-Bachrach, Shamir, Xiao, JMLR 2012.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
    """

@overload
def optimizer(
    name: Literal["naive_parallel_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    norm_of: Literal["gradient", "update"] = "gradient",
) -> Method:
    """g = mean g_i; x -= min(eta, gamma/||g||) d.

    Liu, Zhuang, Lei, Liao, NeurIPS 2022, section 5.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        norm_of: which norm is clipped: of the raw gradient, or of the update with weight decay and momentum; default
            "gradient"
    """

@overload
def optimizer(
    name: Literal["minibatch_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    norm_of: Literal["gradient", "update"] = "gradient",
    interval: int = 1,
) -> Method:
    """g = mean of I gradients of each of N ranks at x; every I gradients x -= min(eta, gamma/||g||) d.

    Liu, Zhuang, Lei, Liao, NeurIPS 2022 (a large-batch form of their baseline).
    eta is lr, I is interval.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        norm_of: which norm is clipped: of the raw gradient, or of the update with weight decay and momentum; default
            "gradient"
        interval: I, gradients of each rank for one step of x; each counts as a step; unit steps; default 1
    """

@overload
def optimizer(
    name: Literal["clip_then_average"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    norm_of: Literal["gradient", "update"] = "gradient",
) -> Method:
    """x -= eta d, d from mean clip(g_i, c), c = gamma/eta.

    Khirirat et al., Clip21, 2023, section 1.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        norm_of: which norm is clipped: of the raw gradient, or of the update with weight decay and momentum; default
            "gradient"
    """

@overload
def optimizer(
    name: Literal["bucket_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    inner: type[Optimizer] | Callable[..., Optimizer] | Optimizer | str | dict[str, Any] | None = None,
    bucket_mb: float = 25.0,
) -> Method:
    """x -= eta d, d from mean clip(g_ib, c sqrt(P_b/P)) in each bucket b of P_b floats, c = gamma/eta.

    Kim et al., 2024 (Breaking MLPerf Training).
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        momentum: momentum of the step; default 0.0
        dampening: dampening of the momentum; default 0.0
        nesterov: Nesterov's form of the momentum; default False
        inner: a torch optimizer that takes the step (class, name in torch.optim, {name: ..., settings}, or instance);
            or two: {matrices: ..., others: ...}; default None
        bucket_mb: size at which a bucket is sent; no tensor is split; unit MiB; default 25.0
    """

@overload
def optimizer(
    name: Literal["clip21"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    tau: float,
) -> Method:
    """m_i = clip(g_i - v_i, tau); v_i += m_i; v += mean m_i; x -= eta v.

    Khirirat et al., Clip21, 2023, Algorithm 1.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        tau: tau, the largest norm of a message; unit g
    """

@overload
def optimizer(
    name: Literal["clip21_sgd2m"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    noise: float = 0.0,
    noise_seed: int = 0,
    tau: float,
    b1: float = 0.9,
    b2: float = 0.9,
) -> Method:
    """u_i = (1-b1) u_i + b1 g_i; m_i = clip(u_i - h_i, tau); h_i += b2 m_i; h += b2 mean(m_i + noise_i); x -= eta h.

    Islamov et al., 2025.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        noise: standard deviation of the Gaussian noise in each entry of a message; unit as the message; default 0.0
        noise_seed: noise is drawn from (noise_seed + train.seed, rank); default 0
        tau: tau, the largest norm of a message before the noise; unit g
        b1: b1, weight of the new gradient in u_i; default 0.9
        b2: b2, weight of a message in h_i and h; default 0.9
    """

@overload
def optimizer(
    name: Literal["norm_ec"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    noise: float = 0.0,
    noise_seed: int = 0,
    alpha: float,
    beta: float,
    server: bool = True,
) -> Method:
    """m_i = (g_i - v_i)/(alpha + ||g_i - v_i||); v_i += beta m_i; v += beta mean(m_i + noise_i); x -= eta v/||v||.

    Shulgin et al., 2025.
    eta is lr.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        noise: standard deviation of the Gaussian noise in each entry of a message; unit as the message; default 0.0
        noise_seed: noise is drawn from (noise_seed + train.seed, rank); default 0
        alpha: alpha, smooths the normalisation; unit g
        beta: beta, weight of a message in v_i and v
        server: normalise the server's step: x -= eta v/||v||; otherwise x -= eta v; default True
    """

@overload
def optimizer(
    name: Literal["ef21_norm"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    b: float = 0.9,
    k: int | None = None,
) -> Method:
    """u_i = (1-b) u_i + b g_i; m_i = C(u_i - h_i); h_i += m_i; h += mean m_i; x -= eta h/||h||.

    Khirirat et al., 2025.
    eta is lr; C takes the k largest entries, or all.

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        b: b, weight of the new gradient in u_i; default 0.9
        k: k, entries of a message; none: all of them; unit entries; default None
    """

@overload
def optimizer(
    name: Literal["decentralized_clip"],
    model_or_params: _Parameters,
    *,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    tau: float,
    lr_decay: float = 1.0,
    tau_growth: float = 0.4,
    radius: float | None = None,
) -> Method:
    """x_i = proj(v_i - alpha_k clip(g_i(v_i), tau_k)); v_i = mean of x_{i-1}, x_i, x_{i+1}.

    Sun, Zhang, Chen, Li, 2023.
    alpha_k = lr/(k+1)^lr_decay and tau_k = tau (k+1)^tau_growth in step k = 0, 1, .

    Args:
        model_or_params: a module, parameters, or parameter groups with an lr and weight_decay of their own
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        tau: tau, threshold on the gradient's norm in the first step; unit g
        lr_decay: power of k+1 by which the step size decreases; default 1.0
        tau_growth: power of k+1 by which the threshold grows; default 0.4
        radius: radius of the ball around 0 onto which x_i is projected after its step; unit x; default None
    """

@overload
def optimizer(
    name: Literal["bo_rep"],
    model_or_params: _Parameters,
    *,
    lower_parameters: _Parameters,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    lower: Literal["shared", "own"],
    lower_lr: float,
    lower_l2: float = 0.0,
    warm_start: int = 3,
    estimator: Literal["linear", "neumann"] = "linear",
    z_lr: float | None = None,
    theta: float | None = None,
    terms: int = 3,
    neumann_terms: Literal["sum", "drawn"] = "sum",
    momentum_policy: Literal["keep", "average"] = "keep",
    upper_step: Literal["normalized", "clipped", "plain"] = "normalized",
    beta: float = 0.9,
    lower_period: int = 2,
    lower_steps: int = 3,
    radius: float | None = None,
    refine: Literal["steps", "epochs"] = "steps",
    refine_steps: int | None = None,
    refine_epochs: int | None = None,
    refine_lr: float | None = None,
    refine_radius: float | None = None,
) -> Method:
    """every T_y steps `lower_steps` times y_i = proj(y_i - alpha Gy); at (x_i, y_i): h = Fx - J z_i; z_i -= nu (H z_i -
    Fy); m_i = beta m_i + (1-beta) h; x_i -= eta m_i/||m_i||; every I steps x_i = mean x (lower shared: y, z too).

    Hao, Gong, Liu, ICLR 2024 (from abstract, reviews and code).
    eta is lr, alpha is lower_lr, nu is z_lr, T_y is lower_period, I is interval.

    Args:
        model_or_params: the upper parameters x, as a module, parameters, or groups with an lr of their own
        lower_parameters: the lower ones y, in the same forms
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        lower: shared: one y, averaged with x; own: each rank has its own y
        lower_lr: alpha, the step size of y; unit y/g
        lower_l2: lambda, adds lambda/2 ||y||^2 to the lower loss; unit g/y; default 0.0
        warm_start: steps at the start in which only y moves; unit steps; default 3
        estimator: how the hyper-gradient is estimated: by a vector z that follows H z = Fy, or a sum of `terms` powers;
            default "linear"
        z_lr: linear: nu, the step size of z; default lower_lr; unit y/g; default None
        theta: neumann: theta, the step size in the sum; default lower_lr; unit y/g; default None
        terms: neumann: Q, the number of terms; unit terms; default 3
        neumann_terms: neumann: add all terms, or draw one and multiply it by `terms`; default "sum"
        momentum_policy: keep each rank's m (and v) at an average, or average them too (longer messages); default "keep"
        upper_step: the step of x: eta m/||m||, min(eta, gamma/||m||) m, or eta m; default "normalized"
        beta: weight of the past in the momentum m; default 0.9
        lower_period: T_y, steps between two refinements of y; unit steps; default 2
        lower_steps: steps in a refinement; unit steps; default 3
        radius: R, radius of the ball around the old y that a refinement cannot leave; unit y; default None
        refine: the warm start: plain steps, or epoch-SGD with refine_epochs epochs, each twice as long as the last;
            default "steps"
        refine_steps: epochs: T1, steps of the first epoch; unit steps; default None
        refine_epochs: epochs: S, the number of epochs; unit epochs; default None
        refine_lr: epochs: alpha1, step size of the first epoch, halved in each further one; unit y/g; default None
        refine_radius: epochs: D1, radius of the first epoch's ball, divided by sqrt(2) in each further one; unit y;
            default None
    """

@overload
def optimizer(
    name: Literal["slip"],
    model_or_params: _Parameters,
    *,
    lower_parameters: _Parameters,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    lower: Literal["shared", "own"],
    lower_lr: float,
    lower_l2: float = 0.0,
    warm_start: int = 3,
    estimator: Literal["linear", "neumann"] = "linear",
    z_lr: float | None = None,
    theta: float | None = None,
    terms: int = 3,
    neumann_terms: Literal["sum", "drawn"] = "sum",
    momentum_policy: Literal["keep", "average"] = "keep",
    upper_step: Literal["normalized", "clipped", "plain"] = "normalized",
    beta: float = 0.9,
    lower_first: bool = False,
) -> Method:
    """at (x_i, y_i, z_i): h = Fx - J z_i; z_i -= nu (H z_i - Fy); y_i -= alpha Gy; m_i = beta m_i + (1-beta) h; x_i -=
    eta m_i/||m_i||; every I steps x_i = mean x (lower shared: y, z too).

    Gong, Hao, Liu, ICML 2024 (from abstract and code).
    eta is lr, alpha is lower_lr, nu is z_lr, I is interval.

    Args:
        model_or_params: the upper parameters x, as a module, parameters, or groups with an lr of their own
        lower_parameters: the lower ones y, in the same forms
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        lower: shared: one y, averaged with x; own: each rank has its own y
        lower_lr: alpha, the step size of y; unit y/g
        lower_l2: lambda, adds lambda/2 ||y||^2 to the lower loss; unit g/y; default 0.0
        warm_start: steps at the start in which only y moves; unit steps; default 3
        estimator: how the hyper-gradient is estimated: by a vector z that follows H z = Fy, or a sum of `terms` powers;
            default "linear"
        z_lr: linear: nu, the step size of z; default lower_lr; unit y/g; default None
        theta: neumann: theta, the step size in the sum; default lower_lr; unit y/g; default None
        terms: neumann: Q, the number of terms; unit terms; default 3
        neumann_terms: neumann: add all terms, or draw one and multiply it by `terms`; default "sum"
        momentum_policy: keep each rank's m (and v) at an average, or average them too (longer messages); default "keep"
        upper_step: the step of x: eta m/||m||, min(eta, gamma/||m||) m, or eta m; default "normalized"
        beta: weight of the past in the momentum m; default 0.9
        lower_first: take y's step first, on a separate batch, as in the authors' code; default False
    """

@overload
def optimizer(
    name: Literal["accbo"],
    model_or_params: _Parameters,
    *,
    lower_parameters: _Parameters,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    gamma: float | None = None,
    max_norm: float | None = None,
    gamma_follows_lr: bool = True,
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    lower: Literal["shared", "own"],
    lower_lr: float,
    lower_l2: float = 0.0,
    warm_start: int = 3,
    estimator: Literal["linear", "neumann"] = "neumann",
    z_lr: float | None = None,
    theta: float | None = None,
    terms: int = 3,
    neumann_terms: Literal["sum", "drawn"] = "sum",
    momentum_policy: Literal["keep", "average"] = "keep",
    upper_step: Literal["normalized", "clipped", "plain"] = "normalized",
    beta: float = 0.9,
    lower_period: int = 1,
    lower_steps: int = 1,
    nesterov: float = 0.5,
    tau: float = 0.5,
) -> Method:
    """every T_y steps `lower_steps` times u = y_i + nu_N (y_i - y_before), y_i = u - alpha Gy(x_i, u); y^_i = (1-tau)
    y^_i + tau y_i; m_i = h(x_i, y^_i; B) + beta (m_i - h(x_old, y^_old; B)); x_i -= eta m_i/||m_i||; every I steps
    x_i = mean x (lower shared: y, y_before, y^ too).

    Gong, Hao, Liu, NeurIPS 2024 (from abstract and code).
    eta is lr, alpha is lower_lr, T_y is lower_period, nu_N is nesterov, Q is terms, I is interval.

    Args:
        model_or_params: the upper parameters x, as a module, parameters, or groups with an lr of their own
        lower_parameters: the lower ones y, in the same forms
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        gamma: upper limit on the length of the step, min(lr, gamma/||g||); or give max_norm; unit x; default None
        max_norm: upper limit on the norm of the gradient; gamma = lr * max_norm; unit g; default None
        gamma_follows_lr: learning-rate schedules scale gamma with lr; default True
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        lower: shared: one y, averaged with x; own: each rank has its own y
        lower_lr: alpha, the step size of y; unit y/g
        lower_l2: lambda, adds lambda/2 ||y||^2 to the lower loss; unit g/y; default 0.0
        warm_start: steps at the start in which only y moves; unit steps; default 3
        estimator: how the hyper-gradient is estimated: by a vector z that follows H z = Fy, or a sum of `terms` powers;
            default "neumann"
        z_lr: linear: nu, the step size of z; default lower_lr; unit y/g; default None
        theta: neumann: theta, the step size in the sum; default lower_lr; unit y/g; default None
        terms: neumann: Q, the number of terms; unit terms; default 3
        neumann_terms: neumann: add all terms, or draw one and multiply it by `terms`; default "sum"
        momentum_policy: keep each rank's m (and v) at an average, or average them too (longer messages); default "keep"
        upper_step: the step of x: eta m/||m||, min(eta, gamma/||m||) m, or eta m; default "normalized"
        beta: weight of the past in the momentum m; default 0.9
        lower_period: T_y, steps between two groups of y's steps; unit steps; default 1
        lower_steps: steps of y in a group; unit steps; default 1
        nesterov: nu_N, weight of y's last move in the next one; default 0.5
        tau: weight of y in its running mean y^; default 0.5
    """

@overload
def optimizer(
    name: Literal["adambo"],
    model_or_params: _Parameters,
    *,
    lower_parameters: _Parameters,
    comm: Communicator | None = None,
    module: nn.Module | None = None,
    timeout: float | None = 600.0,
    lr: float,
    weight_decay: float = 0.0,
    weight_decay_on: Literal["all", "weights"] = "all",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    weight: float = 1.0,
    buffer_policy: _BufferPolicy | dict[str, _BufferPolicy] = "average",
    outer: Literal["none", "sgd", "nesterov", "adam"] = "none",
    outer_lr: float | None = None,
    outer_momentum: float = 0.9,
    outer_beta1: float = 0.9,
    outer_beta2: float = 0.99,
    interval: int | dict[int, int] | Literal["auto"] = 1,
    warmup_steps: int = 0,
    lr_policy: Literal["same", "own"] = "same",
    drift: bool = True,
    drift_budget: float | None = None,
    warmup: Literal["average", "gradients"] = "average",
    overlap: Literal["none", "delayed"] = "none",
    delay: int | None = None,
    merge_alpha: float | None = None,
    compression: Literal["none", "fp16", "bf16", "int8", "int4", "topk"] = "none",
    top_share: float = 0.01,
    node_interval: int | None = None,
    averaging: Literal["whole", "fragments"] = "whole",
    fragments: int | None = None,
    lower: Literal["shared", "own"],
    lower_lr: float,
    lower_l2: float = 0.0,
    warm_start: int = 3,
    estimator: Literal["linear", "neumann"] = "neumann",
    z_lr: float | None = None,
    theta: float | None = None,
    terms: int = 3,
    neumann_terms: Literal["sum", "drawn"] = "sum",
    momentum_policy: Literal["keep", "average"] = "keep",
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-08,
    lower_first: bool = False,
) -> Method:
    """at (x_i, y_i): h; y_i -= alpha Gy; m_i, v_i = Adam's moments of h; x_i -= eta m_i^/(sqrt(v_i^) + eps); every I
    steps x_i = mean x (lower shared: y too).

    Gong, Hao, Liu, 2025, TMLR 2026 (from abstract, reviews and code).
    eta is lr, alpha is lower_lr, Q is terms, I is interval; weight decay is AdamW's.

    Args:
        model_or_params: the upper parameters x, as a module, parameters, or groups with an lr of their own
        lower_parameters: the lower ones y, in the same forms
        comm: the ranks, or a process set of Horovod; default Horovod's where it is initialised, else one rank
        module: whose buffers take part, where model_or_params are parameters or groups; default none
        timeout: the seconds for which a rank waits in one collective before it ends; None for no limit
        lr: eta, the step size; unit x/g
        weight_decay: wd, added to the direction as wd * x; unit g/x; default 0.0
        weight_decay_on: decay all parameters, or only those of several dimensions (no norms, no biases); needs a
            module; default "all"
        on_nonfinite: a gradient that is not finite on one rank: an error on all ranks, or that step is left out;
            default "raise"
        weight: this rank's weight in every mean over the ranks, for example its number of samples; default 1.0
        buffer_policy: the module's buffers at an average: average batch-norm statistics and take others from rank 0,
            take all from rank 0 (broadcast), leave each rank its own (keep), or {pattern of names: policy, ...};
            default "average"
        outer: optimizer that steps after each round with x_round - mean x as its gradient; default "none"
        outer_lr: step size of outer; sgd with 1 and no momentum is the plain mean; unit 1 (adam: x); default None
        outer_momentum: momentum of outer (sgd, nesterov); default 0.9
        outer_beta1: decay rate of outer's first moment (adam); default 0.9
        outer_beta2: decay rate of outer's second moment (adam); default 0.99
        interval: I, the local steps between two averages: a number, {from step: I, ...}, or auto; unit steps; default 1
        warmup_steps: steps at the start in which I is 1; unit steps; default 0
        lr_policy: same: different learning rates are an error; own: each rank may have its own; default "same"
        drift: measure ||x_i - mean x|| at each average; costs a copy of x and one pass over it; default True
        drift_budget: interval auto: the largest drift that a choice of I may lead to; unit x; default None
        warmup: during warmup_steps: average x at every step, or step along the mean gradient; default "average"
        overlap: delayed: steps continue during the average; `delay` steps later x moves by mean x - snapshot; default
            "none"
        delay: delayed: steps from the snapshot of x to its move; below I; default I - 1; 0: no delay; unit steps;
            default None
        merge_alpha: alpha: delayed x becomes alpha * x + (1 - alpha) * mean x; default: moves by mean x - snapshot;
            default None
        compression: compression of the update x - x_round that is sent, with error feedback; default "none"
        top_share: topk: share of the entries that are sent; default 0.01
        node_interval: I1, local steps between averages inside a node; divides I, which is not auto; unit steps; default
            None
        averaging: what an average takes: all of x, or one of `fragments` parts of it in turn; default "whole"
        fragments: F, parts of x for averaging: fragments; at most the number of tensors; unit parts; default None
        lower: shared: one y, averaged with x; own: each rank has its own y
        lower_lr: alpha, the step size of y; unit y/g
        lower_l2: lambda, adds lambda/2 ||y||^2 to the lower loss; unit g/y; default 0.0
        warm_start: steps at the start in which only y moves; unit steps; default 3
        estimator: how the hyper-gradient is estimated: by a vector z that follows H z = Fy, or a sum of `terms` powers;
            default "neumann"
        z_lr: linear: nu, the step size of z; default lower_lr; unit y/g; default None
        theta: neumann: theta, the step size in the sum; default lower_lr; unit y/g; default None
        terms: neumann: Q, the number of terms; unit terms; default 3
        neumann_terms: neumann: add all terms, or draw one and multiply it by `terms`; default "sum"
        momentum_policy: keep each rank's m (and v) at an average, or average them too (longer messages); default "keep"
        beta1: decay rate of the first moment m; default 0.9
        beta2: decay rate of the second moment v; default 0.999
        eps: eps, added to sqrt(v^); unit g; default 1e-08
        lower_first: take y's step first, on a separate batch, as in the authors' code; default False
    """
