"""What every method is built on: a torch optimizer over one vector x, and one message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hvdclip.buffers import Buffers
from hvdclip.comm import Communicator, Cost
from hvdclip.flat import Gradient, Space, Vector
from hvdclip.messages import Rider
from hvdclip.methods.agreement import check_agreement, kind
from hvdclip.methods.groups import Parameters, trainable_groups
from hvdclip.methods.settings import CommonSettings
from hvdclip.methods.torch_optimizer import TorchOptimizer
from hvdclip.numbers import Number, finite_or_zero, is_bad, on_host
from hvdclip.stack import kit_of


class NonFiniteGradient(FloatingPointError):
    """A gradient was not finite on some rank; raised on every rank, naming rank and step."""


class Method(TorchOptimizer):
    """A distributed optimizer: `step()` moves x by one gradient and communicates when the method says so.

    Made by hvdclip.optimizer. All ranks start from rank 0's parameters and buffers. A parameter without a gradient in
    a step counts as one with a zero gradient.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    message_size: ClassVar[str]  # floats that a rank hands to collectives
    memory: ClassVar[str]  # floats held beside x and the gradient, without momentum, drift and outer step
    extra_gradients: ClassVar[str] = "none"
    Settings: ClassVar[type[CommonSettings]]

    # GradScaler then always calls step() and leaves the handling of overflows to it: a rank that skipped the call
    # would fall behind the others, and the next average would never complete.
    _step_supports_amp_scaling = True

    def __init__(self, model_or_params: Parameters, settings: Any, comm: Communicator):
        module = model_or_params if isinstance(model_or_params, nn.Module) else None
        self._open = True
        super().__init__(trainable_groups(model_or_params, settings.weight_decay_on), self._group_defaults(settings))
        self._open = False
        self.settings, self.comm = settings, comm
        self.kit = kit_of(comm)
        self.space = self.kit.space([p for group in self.param_groups for p in group["params"]])
        self.weight = _share(settings.weight, comm)
        self.buffers = Buffers(module, settings.buffer_policy, comm.rank, comm.size, self.weight)
        self.statistics = self.kit.statistics(comm)
        frozen = [] if module is None else [p.data for p in module.parameters() if not p.requires_grad]
        beside = [*frozen, *self.buffers.tensors()]
        check_agreement(
            comm,
            {
                "method": self.name,
                **settings.model_dump(exclude={"inner", "weight"}),
                "inner": kind(getattr(settings, "inner", None)),
                "parameters and buffers": [(tuple(t.shape), t.dtype) for t in [*self.space.parameters, *beside]],
                "parameter groups": [(g["lr"], g.get("weight_decay"), len(g["params"])) for g in self.param_groups],
            },
        )
        self.label = comm.new_name()  # two optimizers may have messages under way at one time
        self.numbers: dict[str, Any] = {}  # a method's own numbers, saved with its vectors
        self.vectors = {name: self.space.vector() for name in self._state_vectors() if name not in self.travels()}
        self.message, self.x = self._lay_out()
        self.messages: list[Any] = [self.message]  # whose costs are those of a round
        self.space.bind(self.x)
        self.comm.broadcast_([*self.x.flats, *beside])

        self.steps = self.rounds = self.steps_in_round = 0
        self.on_round: Callable[[], None] | None = None  # called when a round is complete
        self.step_scale = 1.0
        self._closure: Callable[..., Any] | None = None
        self._first_lr = self.param_groups[0]["lr"]
        self._keep, self._leave_out = (torch.full((), float(out), device=self.space.device) for out in (False, True))
        self._skip = self._keep
        self._bad_loss: Tensor | bool = False  # since the last gradient
        self._round: dict[str, Any] = {}
        self._round_start = time.perf_counter()

    # What a method's file defines

    # whether all ranks read equally many batches
    reads_alike: ClassVar[bool] = True

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        """Whether one process can step many stacked ranks at once with these settings."""
        return True

    def keeps(self) -> tuple[str, ...]:
        """The names of the vectors of state beside x; they are zero at the start, and saved with the optimizer."""
        return ()

    def travels(self) -> tuple[str, ...]:
        """Those of them that are averaged over the ranks together with x."""
        return ()

    def alike(self) -> tuple[str, ...]:
        """Those that are the same on all ranks at the end of a round, or made anew in the next."""
        return self.travels()

    def _lay_out(self) -> tuple[Any, Vector]:
        """The message and the vector x, which may lie in it."""
        raise NotImplementedError

    def _advance(self, g: Gradient | None) -> None:
        """One step from the gradient g, or none of a rank that takes no part, with the communication that is due."""
        raise NotImplementedError

    @property
    def needs_closure(self) -> bool:
        """Whether some step needs more than one gradient."""
        return False

    @property
    def host_skips(self) -> bool:
        """Whether the host leaves out a step that is to be left out, since the device cannot mask all it changes.

        False is for steps that change x by `move` only, which masks itself.
        """
        return True

    @property
    def takes_part(self) -> bool:
        """Whether this rank takes steps in the present round; else it reads no data."""
        return True

    def start_round(self) -> None:
        """Before the first gradient of a round; x is the same on all ranks."""

    # What it is written with

    def message_of(self, vectors: int, riders: Sequence[Rider] = (), *, space: Space | None = None, name: str = "main"):
        """A message of that many vectors; `name` tells apart those that are under way at one time."""
        label = f"{self.label}.{name}"
        return self.kit.message(space or self.space, vectors, riders, self.comm, self.weight, label)

    def fresh_gradient(self) -> Gradient:
        """One more gradient of this rank at its present parameters, of a batch of its own; .grad is overwritten.

        Where it is not finite, this rank's present step is left out, as for the step's own gradient.
        """
        self._evaluate_closure()
        return self._second_gradient()

    def same_batch_gradient(self, x: Vector) -> Gradient:
        """The gradient of the last batch at x, by closure(again=True); .grad is overwritten."""
        assert self._closure is not None
        with self.x.replaced_by(x), torch.enable_grad():
            self._closure(again=True)
        return self._second_gradient()

    def _second_gradient(self) -> Gradient:
        g = self.space.gradient([part.clone() for part in self._parts()])
        bad = self._is_bad(g.norm())
        self._skip = torch.maximum(self._skip, torch.as_tensor(bad).float())
        self.statistics.mark_failed(self.steps_in_round, bad)
        return g

    @property
    def eta(self) -> float:
        """The present step size: the constructor's lr times the schedule factor of the first group."""
        return self.settings.lr * (self.param_groups[0]["lr"] / self._first_lr)

    @property
    def gamma(self) -> float | None:
        """The present cap on the length of a step; None for methods that do not clip."""
        return None

    # What a user calls

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step from the gradients in .grad, or from those that closure() makes; returns the closure's loss."""
        if closure is None and self.needs_closure:
            raise TypeError(f"{self.name} needs a second gradient: call step(closure), without GradScaler")
        self._closure = closure
        self.steps += 1
        self.steps_in_round += 1
        if self.steps_in_round == 1:
            self._begin_round()
        if not self.takes_part:
            self._advance(None)
            return None
        loss = None if closure is None else self._evaluate_closure()
        self._advance(self._gradient())
        return loss

    @torch.no_grad()
    def record(self, *, loss: Tensor | float | None = None, samples: int = 0) -> None:
        """Add this rank's loss and number of samples of a step to the statistics that ride in the round's message.

        Called before `step`, which a loss that is not finite makes one of a gradient that is not finite.
        """
        if loss is not None:
            number = on_host(torch.as_tensor(loss, device=self.space.device).detach().reshape(()))
            bad = is_bad(number)
            self.statistics.add("loss", finite_or_zero(number))
            self.statistics.add("losses", 1 - 1 * bad)
            self._bad_loss = self._bad_loss | bad
        self.statistics.add("samples", samples)

    def synchronize(self) -> None:
        """Average the incomplete last round, if there is one, so that all ranks hold the same parameters."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are the mean over the ranks; afterwards each rank's own again.

        Free at the end of a round; elsewhere one average of P, which all ranks must enter.
        """
        start = time.perf_counter()
        try:
            with self.statistics.pace.paused():
                yield
        finally:
            self._round_start += time.perf_counter() - start

    @property
    def last_round(self) -> dict[str, Any]:
        """The metrics of the last completed round, under the keys of metrics.jsonl; empty before the first."""
        return self._round | self.statistics.summary() if self._round else {}

    def requests(self) -> set[str]:
        """What any rank has asked of all since the last call; called at the end of a round, the same on all ranks."""
        asked, self.statistics.asked = self.statistics.asked, set()
        return asked

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not self._open:
            raise RuntimeError("parameters cannot be added to an hvdclip optimizer: pass all groups to the constructor")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """torch's state_dict (the groups) with this rank's own state under "hvdclip"; tensors and numbers only."""
        state = super().state_dict()
        state["hvdclip"] = {
            "method": self.name,
            "shape": self._shape(),
            "steps": self.steps,
            "rounds": self.rounds,
            "steps_in_round": self.steps_in_round,
            "statistics": self.statistics.state_dict(),
            "numbers": _copied(self.numbers, self.space.device),
            "vectors": {name: [flat.clone() for flat in v.flats] for name, v in self.vectors.items()},
        }
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what state_dict gave for the same method and parameters; ValueError for another method's state."""
        own = state_dict.get("hvdclip", {})
        if own.get("method") != self.name:
            raise ValueError(f"the state is of method {own.get('method')!r}, this optimizer's method is {self.name!r}")
        if own["shape"] != self._shape():
            raise ValueError(f"the state is of {own['shape']}, this optimizer is of {self._shape()}")
        super().load_state_dict(state_dict)
        self.steps, self.rounds, self.steps_in_round = own["steps"], own["rounds"], own["steps_in_round"]
        self.statistics.load_state_dict(own["statistics"])
        self.numbers = _copied(own["numbers"], self.space.device)
        for name, vector in self.vectors.items():
            torch._foreach_copy_(vector.flats, own["vectors"][name])

    def kept_apart(self) -> list[str]:
        """What each rank keeps for itself at the end of a round, in words; without it other ranks can go on from x."""
        apart = [f"its own {name}" for name in self.keeps() if name not in self.alike()]
        own_buffers = self.settings.buffer_policy == "keep" and self.buffers.tensors()
        return [*apart, "its own buffers (buffer_policy: keep)"] if own_buffers else apart

    def apart_in_x(self) -> list[str]:
        """Why x itself is not the same on all ranks at the end of a round, in words."""
        return []

    def check_common(self, reset: bool = False) -> None:
        """ValueError where other ranks cannot go on from what is common at the end of a round.

        With `reset` they can do without what each rank keeps beside x.
        """
        lasting, apart = self.apart_in_x(), self.kept_apart()
        if lasting or (apart and not reset):
            way_out = "" if lasting else "; checkpoint.other_ranks: reset begins that anew"
            raise ValueError(f"each rank of {self.name} keeps {', '.join([*apart, *lasting])}{way_out}")

    def load_common_state(self, state_dict: dict[str, Any], reset: bool = False) -> None:
        """Restore what a rank of another number of ranks gave at the end of a round.

        ValueError where each of them kept something for itself, which `reset` begins anew.
        """
        self.check_common(reset)
        if self.kept_apart():
            state_dict = self._begun_anew(state_dict)
        own = state_dict["hvdclip"] | {"shape": self._shape(), "statistics": self.statistics.state_dict()}
        self.load_state_dict(state_dict | {"hvdclip": own})

    def _begun_anew(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state with all that a method keeps beside x as at the start, where this optimizer still is."""
        own, at_start = state_dict["hvdclip"], Method.state_dict(self)["hvdclip"]
        vectors = own["vectors"] | {name: at_start["vectors"][name] for name in self.keeps() if name in self.vectors}
        return state_dict | {"hvdclip": own | {"vectors": vectors, "numbers": at_start["numbers"]}}

    # Inside

    def _begin_round(self) -> None:
        self.start_round()

    def _state_vectors(self) -> tuple[str, ...]:
        return self.keeps()

    def _shape(self) -> str:
        vectors = ", ".join(self.vectors) or "none"
        inside = kind(getattr(self.settings, "inner", None))
        outer = getattr(self.settings, "outer", "none")
        return (
            f"{self.space.size} parameters{self.space.order}, {self.comm.size} ranks, state vectors: {vectors}, "
            f"inner: {inside}, outer: {outer}"
        )

    def _group_defaults(self, settings: Any) -> dict[str, Any]:
        return {"lr": settings.lr, "weight_decay": settings.weight_decay}

    def _evaluate_closure(self) -> Any:
        assert self._closure is not None
        with torch.enable_grad():
            loss = self._closure()
        self.record(loss=loss)
        return loss

    def _gradient(self) -> Gradient:
        g = self._parts()
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if scale is not None:
            torch._foreach_div_(g, scale)
        gradient = self.space.gradient(g)
        self._observe(gradient.norm(), overflow)
        return gradient

    def _parts(self) -> list[Tensor]:
        self.space.check_bound()
        left = [p.grad for p in self.space.parameters]
        if all(g is None for g in left):
            raise RuntimeError("no parameter has a gradient: call backward() before step(), or pass a closure")
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(self.space.parameters, left, strict=True)]
        if any(map(attrgetter("is_sparse"), parts)):
            raise TypeError("a gradient is sparse; only dense gradients are supported (nn.Embedding(sparse=False))")
        return self.space.in_order(parts)

    def _observe(self, norm: Tensor, overflow: Tensor | None) -> None:
        self.statistics.add("steps", 1)
        if overflow is not None:
            self._observe_scaled(norm, overflow > 0)
            return
        length = on_host(norm)
        bad = self._is_bad(length)
        if isinstance(bad, Tensor):
            self._skip = bad.float()
            self.statistics.add("skipped", self._skip)
        else:
            self._skip = self._leave_out if bad else self._keep
            self.statistics.add("skipped", bad)
        self.statistics.add_norm(length)
        self.statistics.mark_failed(self.steps_in_round, bad)

    def _observe_scaled(self, norm: Tensor, overflowed: Tensor) -> None:
        """The same of a gradient that GradScaler has scaled; an overflow is no failure, but a loss is not scaled."""
        bad_loss, self._bad_loss = self._bad_loss, False
        bad = is_bad(norm)
        self._skip = (bad | overflowed | bad_loss).float()
        self.statistics.add("overflowed", overflowed)
        self.statistics.add("skipped", self._skip)
        self.statistics.add_norm(norm.masked_fill(overflowed, float("nan")))
        self.statistics.mark_failed(self.steps_in_round, (bad & ~overflowed) | bad_loss)

    def _is_bad(self, norm: Number) -> Tensor | bool:
        """Whether the norm is not finite, or a loss that has been recorded since the last gradient."""
        bad, self._bad_loss = is_bad(norm) | self._bad_loss, False
        return bad

    def _finish_round(self) -> None:
        self._close_round()
        self._complete_round()

    def _close_round(self) -> None:
        """The round's steps are done; its message may still be under way."""
        self._closed: dict[str, Any] = {
            "first": self.steps - self.steps_in_round,
            "step": self.steps,
            "lr": self.eta,
            "gamma": self.gamma,
            "interval": None,
        }
        self.steps_in_round = 0

    def _complete_round(self) -> None:
        """The round's message has been taken."""
        self.rounds += 1
        closed = dict(self._closed)
        first = closed.pop("first")
        cost = Cost()
        for message in self.messages:
            cost, message.cost = cost.plus(message.cost), Cost()
        now = time.perf_counter()
        self._round = closed | {
            "round": self.rounds,
            "bytes": cost.bytes,
            "comm_s": cost.seconds,
            "round_s": now - self._round_start,
            "ranks": self.comm.size,
        }
        self._round_start = now
        self._round_is_known()
        if self.statistics.failed and self.settings.on_nonfinite == "raise":
            where = ", ".join(f"rank {r} at step {first + s}" for r, s in self.statistics.failed.items())
            raise NonFiniteGradient(
                f"the loss, the gradient or its norm is not finite on {where}; on_nonfinite: skip leaves such steps out"
            )
        if self.on_round is not None:
            self.on_round()

    def _round_is_known(self) -> None:
        """The metrics of the round are there, and nobody has seen them yet."""


def _share(weight: float, comm: Communicator) -> float:
    """This rank's share in a weighted mean, times the number of ranks; exactly 1 where all weights are equal."""
    weights = comm.gather(weight)
    return 1.0 if len(set(weights)) == 1 else weight / sum(weights) * comm.size


def _copied(numbers: Any, device: torch.device) -> Any:
    if isinstance(numbers, dict):
        return {name: _copied(value, device) for name, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return type(numbers)(_copied(value, device) for value in numbers)
    return numbers.clone().to(device) if isinstance(numbers, Tensor) else numbers
