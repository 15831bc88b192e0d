"""The base of all algorithms: a torch optimizer over one vector x, assembled from parts that each do one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from hvdclip.averaging import Everyone, Participation
from hvdclip.averaging.rule import Priced
from hvdclip.comm import Communicator
from hvdclip.engine import broadcasts, copies, saved
from hvdclip.engine.agreement import check_groups, check_steps, kind, number_of
from hvdclip.engine.descent import Descent, inverse
from hvdclip.engine.groups import NAMES, Parameters, defaults_of, others_in_words
from hvdclip.engine.handed import Handed, hold, parameter_of, take_from_others
from hvdclip.engine.inner import InnerSgd
from hvdclip.engine.joining import check_joinable, sit_out
from hvdclip.engine.kept import KeptBuffers
from hvdclip.engine.progress import Progress
from hvdclip.engine.reading import Gradients
from hvdclip.engine.sgd import FusedSgd
from hvdclip.engine.sharing import COMMON, Sharing
from hvdclip.engine.shown import MOMENTUM, Shown, State
from hvdclip.engine.skip import Skip
from hvdclip.engine.torch_optimizer import is_horovods, keep_from_compiler, plain, profile_hook_step
from hvdclip.engine.types import types_of
from hvdclip.errors import NonFiniteGradient
from hvdclip.flat import Gradient, Scalar, Space, Vector, in_own_storage
from hvdclip.flat.owner import Owner
from hvdclip.flat.scalars import AnyScalar, at_most, on_host
from hvdclip.messages import Buffers, Rider, mean_over_ranks
from hvdclip.messages.statistics import Place
from hvdclip.settings import CommonSettings, SgdSettings, ThresholdSettings
from hvdclip.torch_private import handles_overflows


# a rank whose GradScaler skipped a step would fall behind the others, and the next average would never complete
@handles_overflows
class Method(torch.optim.Optimizer):
    """A distributed optimizer: `step()` moves x by one gradient and communicates when the method says so.

    Made by hvdclip.optimizer. All ranks start from rank 0's parameters and buffers. A parameter without a gradient does
    not change in that step, as in torch's optimizers; it still takes part in averages.

    State is in the parts, not in the method itself: `progress`, `gradients`, `skip`, `descent`, `sgd` (if the step is
    that of SGD), `vectors`, `numbers`, `statistics`, and what the kind of method adds to them.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    message_size: ClassVar[str]  # floats that a rank hands to collectives
    memory: ClassVar[str]  # floats besides x and the gradient, without momentum, drift and outer step
    peak: ClassVar[str]  # the same at the peak of a step on a CPU without weight decay; `memory` if that is not more
    extra_gradients: ClassVar[str] = "none"
    Settings: ClassVar[type[CommonSettings]]

    profile_hook_step = staticmethod(profile_hook_step)
    x: Vector
    sgd: FusedSgd | InnerSgd  # for methods whose step is that of SGD

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "memory" in vars(cls) and "peak" not in vars(cls):
            cls.peak = cls.memory
        if is_horovods(cls):
            raise TypeError(
                "hvd.DistributedOptimizer around an hvdclip optimizer would average twice: use the hvdclip optimizer "
                "alone"
            )
        keep_from_compiler(cls)

    def __init__(self, model_or_params: Parameters | Handed, settings: Any, comm: Communicator):
        handed = model_or_params if isinstance(model_or_params, Handed) else Handed(model_or_params, settings)
        self.handed, module = handed, handed.module
        super().__init__(handed.groups, defaults_of(settings))
        self.settings, self.comm, self.types = settings, comm, types_of(comm)
        self.spaces = self._spaces()
        self.space = self.spaces[0]
        parameters = [p for space in self.spaces for p in space.parameters]
        take_from_others(parameters, self)
        for space in self.spaces:
            space.owner = Owner(module)
        self.weight = handed.share_of(settings.weight, comm)
        self.buffers = Buffers(module, settings.buffer_policy, comm.rank, comm.size, self.weight)
        self.statistics = self.types.statistics(comm, len(self.space.parameters))
        frozen = [] if module is None else [p.data for p in module.parameters() if not p.requires_grad]
        self._beside_x = [*frozen, *self.buffers.tensors()]
        self.kept = KeptBuffers(self.buffers, parameters, settings.on_nonfinite == "skip")
        handed.agree(comm, self._what_must_agree())
        self.label = handed.label_of(comm)
        self.progress = Progress()
        self.skip = Skip(self.space.device, self.statistics)
        self.gradients = Gradients(self.space, self.statistics, self.skip, self.progress)
        self.participation = self.who_takes_part()
        self.table = self._table()
        self.numbers: dict[str, Any] = {}  # a method's own numbers, saved with its vectors
        here = [*self.named(Sharing.OWN), *self.named(Sharing.COMMON)]  # those that travel are in a message
        self.vectors = {name: self.space_of(name).vector() for name in self.table if name in here}

    def _start(
        self,
        x: Vector,
        vectors: Mapping[str, Vector] | None = None,
        optimizers: Mapping[str, saved.Stateful] | None = None,
    ) -> None:
        """The rest of the construction, once it is known where x is stored.

        `vectors` and `optimizers` are additional ones to save.
        """
        self.x = x
        self.vectors |= vectors or {}
        for space, vector in zip(self.spaces, self.bound, strict=True):
            space.bind(vector)
        self.handed.start_alike(self.comm, [flat for vector in self.bound for flat in vector.flats], self._beside_x)
        self.kept.keep()
        self._first_lr = self.param_groups[0]["lr"]
        self.optimizers = dict(optimizers or {})  # inside this one
        self.parts: list[saved.Stateful] = [self.progress]  # each part's state is saved under its own names
        self.descent = self._descent()
        if isinstance(self.settings, SgdSettings):
            self.sgd = self._sgd_step(self.settings)
            self.parts.append(self.sgd)
        self.statistics.place = partial(
            _place, self.progress, self.param_groups, self._same_lr(), self.participation, self.weight, self.handed
        )
        self.set_up()
        self._show_state()
        for space in self.spaces:
            hold(space.parameters, self)

    # What an algorithm's file defines

    def keeps(self) -> Mapping[str, Sharing] | Sequence[str]:
        """The names of the vectors of state besides x; they are zero at the start, and saved with the optimizer.

        A mapping says how the ranks' vectors relate at the end of a round; without a mapping each rank has its own.
        """
        return ()

    def set_up(self) -> None:
        """What else the algorithm makes at the start, or refuses; x and the vectors exist already."""

    def who_takes_part(self) -> Participation:
        """The ranks that take steps in a round."""
        return Everyone()

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        """Whether one process can step many stacked ranks at once with these settings of the algorithm."""
        return True

    @property
    def needs_closure(self) -> bool:
        """Whether some step needs more than one gradient."""
        return False

    @property
    def bound(self) -> Sequence[Vector]:
        """The vectors whose views the parameters are, one for each of `spaces`."""
        return [self.x]

    @property
    def met(self) -> Sequence[Vector]:
        """Those that are means over the ranks after an average: x, and possibly others of `bound`."""
        return [self.x]

    def space_of(self, name: str) -> Space:
        """The space of a vector of state."""
        return self.space

    @property
    def changes(self) -> Sequence[str] | None:
        """The vectors of state that a step changes; None if it changes more, or something that a device cannot mask.

        If there are none, a step is always called, and `move` does not change x if the step is left out. Otherwise a
        step that is left out is not called if the host knows of it, and its vectors are restored if only the device
        does.
        """
        return self.sgd.changes if isinstance(self.settings, SgdSettings) else None

    def start_round(self) -> None:
        """Before the first gradient of a round; x is the same on all ranks."""

    # What a kind of method defines

    def take(self, g: Gradient) -> None:
        """One step from this rank's gradient g."""
        raise NotImplementedError

    def sit_out(self) -> None:
        """Called instead of `take` on a rank that takes no part in a step."""

    def after_step(self) -> None:
        """The communication that is due after a step, also of a rank that takes no part in it."""
        raise NotImplementedError

    def joinable(self) -> bool:
        """Whether a rank without gradients can take part in rounds, with weight zero."""
        return False

    @property
    def messages(self) -> Sequence[Priced]:
        """The messages whose costs count as the round's; the first is the round's own."""
        raise NotImplementedError

    def further_riders(self) -> Sequence[Rider]:
        """What travels in the tail of a round's message besides buffers and statistics."""
        return ()

    def communication(self) -> str:
        """What is averaged, and when."""
        raise NotImplementedError

    def agrees(self) -> bool:
        """Whether all ranks have the same x now."""
        return True

    def wait(self) -> None:
        """Wait for what is under way."""

    @property
    def ends_step(self) -> bool:
        """Whether a step that was left out has no further gradient to take."""
        return True

    def synchronize(self) -> None:
        """Average the incomplete last round, if there is one, so that all ranks have the same parameters."""

    def kept_apart(self) -> list[str]:
        """What each rank has for itself at the end of a round, in words; other ranks can continue from x without it."""
        apart = [f"its own {name}" for name in self.named(Sharing.OWN)]
        return [*apart, "its own buffers (buffer_policy: keep)"] if self.buffers.kept else apart

    def apart_in_x(self) -> list[str]:
        """Why x itself is not the same on all ranks at the end of a round, in words."""
        return []

    # What the algorithm's file uses

    def move(self, v: Vector, factor: Scalar = 1.0, *, weight_decay: bool = True) -> None:
        """x_k -= lr_k * factor * (v + wd_k * x) for each parameter group k, unless this rank's step is left out."""
        self.descent.move(v, factor, weight_decay=weight_decay)

    def with_weight_decay(self, g: Vector) -> Vector:
        """g + wd_k * x; where wd_k is 0, g's own tensors."""
        return self.descent.with_weight_decay(g)

    def move_normalized(self, v: Vector) -> None:
        """x_k -= lr_k * (v/||v|| + wd_k * x); nothing if v is zero."""
        norm = v.norm()
        self.move(inverse(norm) * v, (norm > 0).to(norm.dtype))

    def clip(self, v: Vector) -> Scalar:
        """min(1, c/(1e-10 + ||v||)), for a step no longer than gamma; counted as clipped if it is below 1."""
        return self._capped(self.threshold / (1e-10 + on_host(v.norm())), v.alike)

    def clip_message(self, v: Vector, c: float) -> Tensor:
        """The factor of clip(v, c): 1 if ||v|| <= c, else c/||v||, so that the message has norm c exactly."""
        return self._capped(c / v.norm(), v.alike)

    def message_of(
        self,
        content: Any,
        riders: Sequence[Rider] = (),
        *,
        kind: Callable[..., Any] | None = None,
        space: Space | None = None,
        name: str = "main",
    ) -> Any:
        """A message of that many vectors, or of one for each of some spaces, or of another kind and its contents.

        `name` distinguishes messages that are under way at the same time.
        """
        space, rest = space or self.space, (riders, self.comm, self.weight, f"{self.label}.{name}")
        if kind is not None:
            return kind(space, content, *rest)
        return self.types.message([space] * content if isinstance(content, int) else content, *rest)

    def fresh_gradient(self) -> Gradient:
        """One more gradient of this rank at its current parameters, of its own batch; .grad is overwritten.

        If it is not finite, this rank's current step is left out, as for the step's own gradient.
        """
        self.gradients.evaluate()
        return self.gradients.take_further()

    def same_batch_gradient(self, x: Vector) -> Gradient:
        """The gradient of the last batch at x, by closure(again=True); .grad is overwritten."""
        with self.x.replaced_by(x):
            self.gradients.evaluate_again()
        return self.gradients.take_further()

    def named(self, sharing: Sharing) -> list[str]:
        """The vectors of state with that relation between the ranks."""
        return [name for name, theirs in self.table.items() if theirs is sharing]

    @property
    def eta(self) -> float:
        """The current step size: the constructor's lr times the schedule factor of the first group."""
        return self.settings.lr * (self.param_groups[0]["lr"] / self._first_lr)

    @property
    def gamma(self) -> float | None:
        """The current upper limit on the length of a step; None for methods that do not clip."""
        if not isinstance(self.settings, ThresholdSettings) or not self.settings.clips:
            return None
        eta = self.eta if self.settings.gamma_follows_lr else self.settings.lr
        return self.settings.threshold * eta

    @property
    def threshold(self) -> float:
        """c, the threshold on the norm: the current gamma/eta."""
        c = self.settings.threshold
        return c if self.settings.gamma_follows_lr or self.eta == 0 else c * self.settings.lr / self.eta

    # What a user calls

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step from the gradients in .grad, or from those that closure() makes; returns the closure's loss."""
        if closure is None and self.needs_closure:
            raise TypeError(f"{self.name} needs a second gradient: call step(closure), without GradScaler")
        self._unfreeze()
        self.gradients.closure, loss = closure, None
        self._begin_step()
        if self.takes_part:
            loss = None if closure is None else self.gradients.evaluate()
            self._take(self._gradient())
            self.kept.put_back(self.skip.flag)
        else:
            self.sit_out()
        self._end_step()
        return loss

    @torch.no_grad()
    def record(self, *, loss: Tensor | float | None = None, samples: int = 0) -> None:
        """Add this rank's loss and number of samples of a step to the statistics in the round's message.

        Call it before `step`. A loss that is not finite counts as a gradient that is not finite.
        """
        self.gradients.record(loss, samples)

    @contextmanager
    def join(self) -> Iterator[None]:
        """Inside, ranks may take different numbers of steps, as with torch's Join; all ranks must enter and leave it.

        A rank that leaves takes part in the others' rounds with weight zero, until all have left; `steps` counts these
        rounds too. ValueError for methods and settings that send or store more than x or a gradient.
        """
        everyone = check_joinable(self, self.joinable())
        everyone.join()
        try:
            yield
            with torch.no_grad():
                sit_out(self, everyone)
        finally:
            everyone.stay()
            self.buffers.weight = self.weight

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are the mean over the ranks; afterwards each rank has its own again.

        Free at the end of a round; elsewhere it costs one average of P, which all ranks must enter.
        """
        # two averages that happen to meet in one cycle of Horovod would be summed in another order
        self.wait()
        with self.progress.paused(), self.statistics.pace.paused():
            if self.agrees():
                yield
                return
            if self.participation.joined:
                raise RuntimeError(
                    "averaged() inside join(): ranks that have finished would not take part; call it afterwards"
                )
            with torch.no_grad():
                own = [buffer.clone() for buffer in self.buffers.tensors()]
                share = self.participation.share(self.statistics)
                weight = self.weight / share if self.takes_part else 0.0
                means = mean_over_ranks(self.met, self.spaces[: len(self.met)], [self.buffers], self.comm, weight)
            try:
                with ExitStack() as replaced:
                    for vector, mean in zip(self.met, means, strict=True):
                        replaced.enter_context(vector.replaced_by(mean))
                    yield
            finally:
                with torch.no_grad():
                    for buffer, before in zip(self.buffers.tensors(), own, strict=True):
                        buffer.copy_(before)

    @property
    def last_round(self) -> dict[str, Any]:
        """The metrics of the last completed round, under the keys of metrics.jsonl; empty before the first."""
        if not self.progress.metrics:
            return {}
        return self.progress.metrics | self.statistics.summary() | dict.fromkeys(self.progress.unknown)

    def requests(self) -> set[str]:
        """What any rank has requested since the last call; called at the end of a round, the same on all ranks."""
        asked, self.statistics.asked = self.statistics.asked, set()
        return asked

    def zero_grad(self, set_to_none: bool = True) -> None:
        plain("zero_grad")(self, set_to_none)
        # a parameter that is unfrozen in mid-round is trained from the next round on, from that round's gradients
        for entries in self.handed.frozen:
            for entry in entries:
                parameter_of(entry).grad = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters from the next round on; all ranks call it, at a round's end, with equal groups.

        Raises RuntimeError in the middle of a round, and what the constructor raises.
        """
        if "settings" in self.__dict__:
            copies.grow(self, param_group)
        else:  # called by torch's constructor
            plain("add_param_group")(self, param_group)

    @property
    def state(self) -> Any:
        """By parameter what torch's optimizers store there: an inner optimizer's state, or the momentum itself."""
        inner: Any = getattr(self, "optimizers", {}).get("inner")
        return self._state if inner is None else inner.state

    @state.setter
    def state(self, state: Any) -> None:
        inner: Any = getattr(self, "optimizers", {}).get("inner")
        if inner is not None:
            inner.state = state
        elif not hasattr(self, "_state"):  # torch's constructor; later it contains the vectors themselves
            self._state = state
        elif "sgd" in self.__dict__:  # otherwise it is torch's constructor
            saved.load_momentum(self, {i: state.get(p, {}) for i, p in enumerate(self.space.parameters)})

    def __getstate__(self) -> dict[str, Any]:
        return copies.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if copies.COPIED in state:
            copies.make(self, state)
        else:  # torch's load_state_dict
            super().__setstate__(state)

    def state_dict(self) -> dict[str, Any]:
        """torch's state_dict with this rank's own state under "hvdclip"; tensors and numbers only.

        While a delayed average is under way all ranks must call it, and it waits for that average.
        """
        return saved.state_dict(self)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what state_dict returned for the same method and parameters; ValueError for another method's state.

        It also loads a state of the torch optimizer that takes the step here (the inner one, or SGD).
        """
        saved.load_state_dict(self, state_dict)
        self.kept.keep()

    @torch.no_grad()
    def broadcast_state(self, root: int = 0) -> None:
        """Make all ranks continue from the state of rank `root`; all ranks call it. x is not part of the state.

        ValueError, on all ranks, if each has something that only it can use.
        """
        broadcasts.from_root(self, root)

    def check_common(self, reset: bool = False) -> None:
        """ValueError if other ranks cannot continue from what is common at the end of a round.

        With `reset` they need nothing that each rank has besides x.
        """
        saved.check_common(self, reset)

    def load_common_state(self, state_dict: dict[str, Any], reset: bool = False) -> None:
        """Load what a rank of another number of ranks returned at the end of a round.

        ValueError if each of them had something for itself; `reset` resets that instead.
        """
        saved.load_common_state(self, state_dict, reset)
        self.kept.keep()

    # How far it has come

    @property
    def steps(self) -> int:
        """Local steps of this rank so far."""
        return self.progress.steps

    @property
    def steps_in_round(self) -> int:
        """Local steps of the current round."""
        return self.progress.steps_in_round

    @property
    def rounds(self) -> int:
        """Complete rounds."""
        return self.progress.rounds

    @property
    def on_round(self) -> Callable[[], None] | None:
        """Called when a round is complete."""
        return self.progress.on_round

    @on_round.setter
    def on_round(self, call: Callable[[], None] | None) -> None:
        self.progress.on_round = call

    @property
    def step_scale(self) -> float:
        """A factor of lr, and so of gamma, in the next steps."""
        return self.descent.scale

    @step_scale.setter
    def step_scale(self, scale: float) -> None:
        self.descent.scale = scale

    @property
    def takes_part(self) -> bool:
        """Whether this rank takes steps in the current round; otherwise it reads no data."""
        return self.participation.includes(self.comm.rank, self.progress.rounds)

    @property
    def counts(self) -> bool:
        """Whether this rank's x counts in the average that ends the current round."""
        return self.participation.counts(self.comm.rank, self.progress.rounds)

    @property
    def reads_alike(self) -> bool:
        """Whether all ranks read the same number of batches."""
        return self.participation.everyone

    @property
    def message(self) -> Any:
        """The message of a round."""
        return self.messages[0]

    # Inside

    def _spaces(self) -> list[Space]:
        """The spaces of the parameters; the first one is that of x."""
        return [self.types.space([p for group in self.param_groups for p in group["params"]])]

    def _descent(self) -> Descent:
        return Descent(self.x, self.param_groups, self.skip)

    def _sgd_step(self, settings: SgdSettings) -> FusedSgd | InnerSgd:
        if settings.inner is None:
            return FusedSgd(self.descent, settings, self.vectors.get("momentum"))
        self.optimizers["inner"] = inner = self.handed.inner(settings, self.param_groups, self.space)
        # one list of groups: what a learning-rate scheduler writes into ours is what the inner optimizer reads
        self.param_groups = self.descent.groups = inner.param_groups
        self.defaults = self.defaults | inner.defaults  # schedulers look here for a momentum
        return InnerSgd(self.descent, self.gradients, inner)

    def _show_state(self) -> None:
        """Let `state` have the vectors themselves, and an entry for each parameter: Horovod would fill an empty one."""
        if "inner" in self.optimizers:
            return  # `state` is the inner optimizer's
        of_x = [name for name in self.table if name in self.vectors and self.space_of(name) is self.space]
        here = {name: self.vectors[name] for name in of_x}
        named = {MOMENTUM if name == "momentum" else name: vector for name, vector in here.items()}
        shown = {
            p: Shown({name: in_own_storage(v.parts[i]) for name, v in named.items()})
            for i, p in enumerate(self.space.parameters)
        }
        sgd = self.__dict__.get("sgd")
        self._state = State(shown, sgd.reset if isinstance(sgd, FusedSgd) else None)

    def _unfreeze(self) -> None:
        if self.statistics.unfrozen and self.progress.steps_in_round == 0:
            copies.unfreeze(self)

    def _begin_step(self) -> None:
        progress = self.progress
        progress.steps += 1
        progress.steps_in_round += 1
        self.skip.begin()
        self.kept.begin(getattr(self, "found_inf", None) is not None)
        if progress.steps_in_round == 1:
            self._begin_round()

    def _end_step(self) -> None:
        self.after_step()
        if self.ends_step:
            self.kept.keep()

    def _begin_round(self) -> None:
        self.start_round()

    def _take(self, g: Gradient) -> None:
        if not self.gradients.absent:
            self.take(g)
            return
        with self._leaving_alone():
            self.take(g)

    def _leaving_alone(self) -> AbstractContextManager[None]:
        return self.gradients.leaving_alone([self.x, *(self.vectors[name] for name in self.table)])

    def _gradient(self) -> Gradient:
        return self.gradients.take(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))

    def _capped(self, ratio: AnyScalar, alike: bool) -> AnyScalar:
        self.statistics.add("clipped", (ratio < 1) * (1 - on_host(self.skip.flag)), alike=alike)
        return at_most(ratio, 1.0)

    def _table(self) -> dict[str, Sharing]:
        """What must be the same on all ranks: every vector of state, and how the ranks' vectors relate."""
        has_momentum, kept = isinstance(self.settings, SgdSettings) and self.settings.momentum, self.keeps()
        own = kept if isinstance(kept, Mapping) else dict.fromkeys(kept, Sharing.OWN)
        return ({"momentum": self._momentum_sharing()} if has_momentum else {}) | dict(own)

    def _momentum_sharing(self) -> Sharing:
        return COMMON  # the momentum of the mean gradient

    def _what_must_agree(self) -> dict[str, Any]:
        tensors = [*(p for space in self.spaces for p in space.parameters), *self._beside_x]
        pairs = (zip(g["params"], g.get(NAMES, ()), strict=False) for g in self.param_groups)
        named = {id(p): name for pair in pairs for p, name in pair}

        def name_of(tensor: Tensor) -> str:
            return named.get(id(tensor), self.space.owner.name(tensor))

        return {
            "method": self.name,
            **self.settings.model_dump(exclude={"inner", "weight"}),
            "inner": kind(getattr(self.settings, "inner", None)),
            "parameters and buffers": [(name_of(t), tuple(t.shape), t.dtype) for t in tensors],
            "parameter groups": [
                (g["lr"], g.get("weight_decay"), len(g["params"]), *others_in_words(g)) for g in self.param_groups
            ],
        }

    def _finish_round(self) -> None:
        self._close_round()
        self._complete_round()

    def _close_round(self, interval: int | None = None) -> None:
        """The round's steps are done; its message may still be under way."""
        self.progress.close(lr=self.eta, gamma=self.gamma, interval=interval)

    def _complete_round(self) -> None:
        """The round's message has been taken."""
        self.progress.complete(self.messages, self.comm.size)
        self._round_is_known()
        if self.statistics.differ:
            self._check_alike()
        if self.statistics.failed and self.settings.on_nonfinite == "raise":
            first = self.progress.first
            where = ", ".join(f"rank {r} at step {first + s}" for r, s in self.statistics.failed.items())
            raise NonFiniteGradient(
                f"the loss, the gradient or its norm is not finite on {where}; on_nonfinite: skip leaves such steps out"
            )
        if self.progress.on_round is not None:
            self.progress.on_round()

    def _check_alike(self) -> None:
        check_steps(self.statistics.unlike_steps())
        if self._groups_are_alike():
            check_groups(self.comm, self.param_groups, self._same_lr())

    def _groups_are_alike(self) -> bool:
        """Whether a correct program changes the parameter groups in the same way on all ranks."""
        return True

    def _same_lr(self) -> bool:
        return True

    def _round_is_known(self) -> None:
        """The metrics of the round are there, and nothing has read them yet."""


keep_from_compiler(Method)


def _place(
    progress: Progress,
    groups: list[dict[str, Any]],
    same_lr: bool,
    participation: Participation,
    weight: float,
    handed: Handed,
) -> Place:
    """What a message reports of its rank."""
    unfrozen = float(bool(handed.unfrozen())) if any(handed.frozen) else 0.0
    number = number_of(groups, same_lr)
    if not participation.joined:
        return progress.steps, number, 1.0, 0.0, unfrozen
    counts, here = participation.counts(0, progress.rounds), participation.includes(0, progress.rounds)
    return progress.steps, number, weight if counts else 0.0, 0.0 if here else 1.0, unfrozen
