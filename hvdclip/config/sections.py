"""The sections of a configuration that are the same for every job, setting by setting."""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from hvdclip.comm import Backend
from hvdclip.data.partition import LARGEST_ALPHA
from hvdclip.settings.numbers import FiniteNumber

SECTIONS: dict[str, str] = {
    "algorithm": "the method's name and its settings (hvdclip algorithms)",
    "model": "awd_lstm, lstm, gpt, cnn, mlp, resnet, cleaning, point, a torchvision model, or my.module:build; its "
    "settings",
    "data": "a text, labelled samples, a problem with a known answer, or my.module:loaders",
    "train": "how long, seed, schedule",
    "checkpoint": "how often the run is saved, to resume it",
    "log": "metrics",
    "comm": "how the ranks communicate",
}

LARGEST_SEED = 2**63 - 1  # torch's limit is twice this, and each rank adds its number


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# schedules that decrease along a curve over the run
CURVES = ("cosine", "linear", "wsd")
# settings of schedules, and the schedules that use them
USED_BY = {"milestones": ("step",), "decay": ("step",), "final_share": CURVES, "decay_share": ("wsd",)}


class Train(Section):
    steps: int | None = Field(None, ge=1, description="local steps per rank; or give epochs")
    epochs: int | None = Field(None, ge=1, description="passes over the data by all ranks together; or give steps")
    seed: int = Field(
        1, ge=0, le=LARGEST_SEED, description="seed of the initial model, the order of the data and each rank's dropout"
    )
    evaluate_every_steps: int | None = Field(
        None,
        ge=1,
        description="local steps between evaluations, which wait for the end of the round; default: every epoch",
    )
    schedule: Literal["step", "constant", "cosine", "linear", "wsd"] = Field(
        "step",
        description="lr (and gamma with it) after the warm-up. step: times decay at each milestone, if any; constant; "
        "cosine, linear: along a half cosine or a line to final_share; wsd: constant, then a line in the last "
        "decay_share of the run",
    )
    milestones: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="step: epochs after which lr (and gamma with it) is multiplied by decay"
    )
    decay: FiniteNumber = Field(0.1, gt=0, description="step: factor of lr at each milestone")
    final_share: FiniteNumber = Field(
        0.0, ge=0, le=1, description="cosine, linear, wsd: share of lr at the end of the run"
    )
    decay_share: FiniteNumber = Field(0.2, gt=0, le=1, description="wsd: share of the run in which lr decreases")
    warmup_steps: int = Field(
        0, ge=0, description="local steps in which lr (and gamma with it) grows linearly to its full size"
    )
    warmup_epochs: FiniteNumber = Field(0.0, ge=0, description="the same in epochs")
    warmup_from: FiniteNumber = Field(0.1, gt=0, le=1, description="share of lr at the start of the warm-up")
    nt_asgd: Literal["epoch", "per_step"] | None = Field(
        None,
        description="once the validation loss stalls, evaluate a running mean of models: of epoch ends, or of all "
        "steps",
    )
    weighted: bool = Field(False, description="weight each rank in every mean by the number of its training samples")
    nonmono: int = Field(5, ge=1, description="number of past evaluations that NT-ASGD compares with")
    loss: str = Field(
        "cross_entropy",
        description="for your own data: a function of torch.nn.functional, or my.module:loss, called with model "
        "and batch",
    )
    label_smoothing: FiniteNumber = Field(
        0.0, ge=0, lt=1, description="share of each label that the training loss spreads over all classes"
    )
    accumulate: int = Field(
        1, ge=1, description="number of pieces of a step's batch; their gradients add up, to save memory"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="precision of the model's computations; parameters and averages are float32 (fp16: the loss is "
        "scaled)",
    )
    channels_last: bool = Field(
        False, description="store convolutions' weights channels last, as tensor cores prefer; images follow"
    )
    compile: bool = Field(False, description="compile the model (torch.compile)")
    sync_batch_norm: bool = Field(
        False, description="batch norm over the samples of all ranks; costs a collective per batch norm layer and pass"
    )
    stage: str | None = Field(
        None,
        description="folder on each node's own disk to which the data are copied first; variables such as "
        "$SLURM_TMPDIR are replaced",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if there is a device")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs must be given")
        if self.nt_asgd == "epoch" and (self.evaluate_every_steps is not None or self.epochs is None):
            raise ValueError(
                "nt_asgd is epoch, which takes models at epoch ends; allowed: with epochs, and without "
                "evaluate_every_steps"
            )
        is_torchs = re.search("loss|cross_entropy", self.loss) and hasattr(torch.nn.functional, self.loss)
        if not is_torchs and ":" not in self.loss:
            raise ValueError(
                f"loss is {self.loss!r}; allowed: torch.nn.functional's losses, for example mse_loss, and "
                "my.module:loss"
            )
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing is {self.label_smoothing} with loss {self.loss}; allowed: 0")
        return self

    @model_validator(mode="after")
    def _warms_up_in_one_unit(self) -> Self:
        given = [name for name in ("warmup_steps", "warmup_epochs") if getattr(self, name)]
        if not given and self.warmup_from != Train.model_fields["warmup_from"].default:
            raise ValueError(
                f"warmup_from is {self.warmup_from}, but warmup_steps and warmup_epochs are 0; give both, or neither"
            )
        if len(given) > 1:
            raise ValueError(f"warmup_steps is {self.warmup_steps} and warmup_epochs {self.warmup_epochs:g}; give one")
        if self.schedule in CURVES and given and given != [f"warmup_{self.unit}"]:
            raise ValueError(
                f"{given[0]} is {getattr(self, given[0]):g} with schedule {self.schedule}; allowed: "
                f"warmup_{self.unit}, since the run is given in {self.unit}"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits_run(self) -> Self:
        for name, needs in USED_BY.items():
            if self.schedule not in needs and getattr(self, name) != Train.model_fields[name].default:
                raise ValueError(
                    f"{name} is {getattr(self, name)} with schedule {self.schedule}; allowed with {', '.join(needs)}"
                )
        length, warmup = getattr(self, self.unit) or 1, getattr(self, f"warmup_{self.unit}")
        if self.schedule in CURVES and warmup >= length:
            raise ValueError(
                f"warmup_{self.unit} is {warmup:g} with schedule {self.schedule}; allowed: below {self.unit}, {length}"
            )
        if self.schedule == "wsd" and self.decay_share > 1 - warmup / length:
            raise ValueError(
                f"decay_share is {self.decay_share}; allowed: up to {1 - warmup / length:g}, what the warm-up leaves"
            )
        return self

    @property
    def unit(self) -> Literal["steps", "epochs"]:
        """The unit in which the length of the run is given."""
        return "steps" if self.steps else "epochs"


class Checkpoint(Section):
    every_steps: int | None = Field(
        None, ge=1, description="local steps between checkpoints, which wait for the end of the round"
    )
    every_minutes: FiniteNumber | None = Field(
        None, gt=0, description="minutes between checkpoints by rank 0's clock, which wait for the end of the round"
    )
    keep: int = Field(2, ge=1, description="number of checkpoints to keep, the newest ones")
    other_ranks: Literal["refuse", "reset"] = Field(
        "refuse",
        description="when a run continues on another number of ranks and each rank had state of its own besides x: "
        "refuse, or reset that state",
    )


# programs that follow a run, and the settings of each
LOGGERS = {
    "tensorboard": (),
    "wandb": ("project", "entity", "group", "name", "tags", "mode"),
    "mlflow": ("experiment", "tracking_uri", "name"),
}


class Log(Section):
    every_steps: int = Field(10, ge=1, description="steps per line of metrics.jsonl, for gradient methods")
    tensorboard: bool = Field(False, description="write TensorBoard files too")

    wandb: bool | dict[str, Any] = Field(
        False, description="follow the run in Weights & Biases: true, or {project, entity, group, name, tags, mode}"
    )
    mlflow: bool | dict[str, Any] = Field(
        False, description="follow the run in MLflow: true, or {experiment, tracking_uri, name}"
    )

    @model_validator(mode="after")
    def _loggers_are_there(self) -> Self:
        for name, keys in LOGGERS.items():
            given = getattr(self, name)
            for key in given if isinstance(given, dict) else ():
                if key not in keys:
                    raise ValueError(f"{name}.{key} is {given[key]!r}; allowed keys: {', '.join(keys)}")
            if given and importlib.util.find_spec(name) is None:
                raise ValueError(f"{name} is {given!r}, but {name} is not installed: pip install {name}")
        return self


class Comm(Section):
    backend: Backend = Field("horovod", description="the library by which the ranks communicate")
    share_gpus: bool = Field(
        False, description="let several ranks of a host train on one GPU; they then use host_staging, not NCCL"
    )
    host_staging: bool = Field(
        False,
        description="copy what a GPU sends through the host's memory: slow, but works with a Horovod without CUDA",
    )
    timeout: FiniteNumber | None = Field(
        None,
        gt=0,
        description="seconds that a rank waits for the others before it considers them lost; by default at least 60, "
        "and ten times the longest wait for a round so far; the limit for a batch too, by default at least 600",
    )


class Columns(Section):
    """How a recurrent model reads a text; the corpus's own settings are next to these."""

    batch: int = Field(20, ge=1, description="sequences per rank and step")
    bptt: int = Field(70, ge=5, description="base length of a sequence")
    evaluation_columns: int = Field(
        10, ge=1, description="sequences into which a split is cut for an evaluation, over all ranks"
    )


class Windows(Section):
    """How a model without a state reads a text; the corpus's own settings are next to these."""

    batch: int = Field(20, ge=1, description="sequences per rank and step")
    window: int | None = Field(None, ge=1, description="tokens in a sequence; default: the model's context")
    evaluation_windows: int | None = Field(
        None, ge=1, description="sequences of a split that an evaluation reads, evenly spread; default: all"
    )


class Shards(Section):
    """How labelled samples are shared out over the ranks and read; the data's own settings are next to these."""

    batch: int = Field(32, ge=1, description="samples per rank and step")
    partition: Literal["contiguous", "similar", "dirichlet"] = Field(
        "similar", description="how shards are made: in file order, with a similarity, or by a Dirichlet distribution"
    )
    similarity: FiniteNumber = Field(
        1.0, ge=0, le=1, description="similar: share of every label that is spread evenly; 1 is i.i.d."
    )
    alpha: FiniteNumber = Field(
        1.0,
        gt=0,
        le=LARGEST_ALPHA,
        description="dirichlet: parameter of the distribution; the smaller, the more uneven",
    )
    partition_seed: int = Field(0, ge=0, description="seed of the partition")
    workers: int = Field(0, ge=0, description="number of processes of each rank that read samples ahead")
    on_device: bool = Field(False, description="keep all samples in the memory of the rank's device")

    @model_validator(mode="after")
    def _has_something_to_read(self) -> Self:
        if self.on_device and self.workers:
            raise ValueError(f"workers is {self.workers} with on_device; allowed: 0, since all samples are in memory")
        return self
