"""This rank's gradients: read from .grad or made by a closure, unscaled, and checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from operator import attrgetter, is_not
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine.progress import Progress
from hvdclip.engine.skip import Skip
from hvdclip.flat import Gradient, Scalar, Space, Vector
from hvdclip.flat.scalars import finite_or_zero, is_bad, on_host
from hvdclip.messages import Statistics
from hvdclip.torch_private import foreach_div_

_is_there = partial(is_not, None)


class Gradients:
    """Takes gradients, and passes what they say of the step to `skip` and `statistics`.

    A parameter without a gradient does not change, as in torch's optimizers: see `alone`.
    """

    def __init__(self, space: Space, statistics: Statistics, skip: Skip, progress: Progress):
        self.space, self.statistics, self.skip, self.progress = space, statistics, skip, progress
        self.closure: Callable[..., Any] | None = None  # of the current step
        self.absent: list[int] = []  # places of the parameters without a gradient in the current step
        self.common = False  # all ranks take the step together, along the mean of their gradients
        self._missing: list[int] = []  # the same for the gradient that was read last
        self._warned = False
        self._bad_loss: Tensor | bool = False  # a bad loss since the last gradient

    def record(self, loss: Tensor | float | None, samples: int) -> None:
        """Add a step's loss and samples to the statistics; if the loss is not finite, so is the next gradient."""
        if loss is not None:
            number = on_host(torch.as_tensor(loss).detach().reshape(()))
            if isinstance(number, Tensor):
                number = number.to(self.space.device)
            self.statistics.add("loss", finite_or_zero(number))
            self.statistics.add("losses", 1 - 1 * is_bad(number))
            self.note_loss(number)
        self.statistics.add("samples", samples)

    def note_loss(self, number: Scalar) -> None:
        """If the loss is not finite, the next gradient counts as not finite."""
        self._bad_loss = self._bad_loss | is_bad(number)

    def evaluate(self) -> Any:
        """Call the step's closure on a fresh batch; returns its loss."""
        assert self.closure is not None
        with torch.enable_grad():
            loss = self.closure()
        self.record(loss_in(loss), 0)
        return loss

    def evaluate_again(self) -> None:
        """Call it on the last batch."""
        assert self.closure is not None
        with torch.enable_grad():
            self.closure(again=True)

    def take(self, scale: Tensor | None, overflow: Tensor | None) -> Gradient:
        """The step's gradient in .grad, divided by the scale of a GradScaler, which also reports overflows."""
        parts = self.parts()
        self.note_absent()
        if scale is not None:
            foreach_div_(parts, scale)
        gradient = self.space.gradient(parts)
        if overflow is None:
            self.observe(gradient.norm())
        else:
            self._observe_scaled(gradient.norm(), overflow > 0)
        return gradient

    def take_further(self) -> Gradient:
        """A further gradient of the step, copied from .grad; the step is left out if it is not finite."""
        g = self.space.gradient([part.clone() for part in self.parts()])
        self.look_at(g.norm())
        return g

    def look_at(self, norm: Scalar) -> None:
        """Leave the step out if a further norm that it needs is not finite, or a loss since the last gradient."""
        bad = self._is_bad(norm)
        self.skip.also(bad)
        self.statistics.mark_failed(self.progress.steps_in_round, bad)

    def parts(self) -> list[Tensor]:
        """The contents of .grad, zeros if it is empty; TypeError for sparse gradients."""
        self.space.check_bound()
        parts: list[Any] = list(map(attrgetter("grad"), self.space.parameters))
        self._missing = [] if all(map(_is_there, parts)) else [i for i, g in enumerate(parts) if g is None]
        if self._missing:
            self.space.owner.check_kept()  # a parameter that was replaced gets no gradient any more
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(self.space.parameters, parts, strict=True)]
        if any(map(attrgetter("is_sparse"), parts)):
            raise TypeError("a gradient is sparse; only dense gradients are supported (nn.Embedding(sparse=False))")
        return self.space.in_order(parts)

    def note_absent(self) -> None:
        """Note which parameters had no gradient when `parts` was called for this step, and warn once if none had."""
        self.absent = self._missing
        if not self.absent:
            return
        self.statistics.mark_absent(self.absent)
        if len(self.absent) == len(self.space.parameters) and not self._warned:
            self._warned = True
            warnings.warn(
                "step() was called, but no parameter has a gradient: this counts as a step, and moves nothing; call "
                "backward() before step(), or pass a closure",
                stacklevel=5,
            )

    def alone(self) -> list[int]:
        """Places of the parameters that this step does not change.

        They have no gradient: on this rank or, if the ranks step together, on any rank.
        """
        if not (self.absent and self.common):
            return self.absent
        everywhere = set(self.statistics.absent_everywhere())
        return [place for place in self.absent if place in everywhere]

    @contextmanager
    def leaving_alone(self, vectors: Sequence[Vector]) -> Iterator[None]:
        """Inside, a step may move everything; afterwards these vectors are restored where it must not change them."""
        before = {place: [vector.parts[place].clone() for vector in vectors] for place in self.absent}
        yield
        for place in self.alone():
            for vector, kept in zip(vectors, before[place], strict=True):
                vector.parts[place].copy_(kept)

    def observe(self, norm: Tensor) -> None:
        """Count the step, and leave it out if the norm of its gradient is not finite."""
        self.statistics.add("steps", 1)
        length = on_host(norm)
        bad = self._is_bad(length)
        self.skip.decide(bad)
        self.statistics.add_norm(length)
        self.statistics.mark_failed(self.progress.steps_in_round, bad)

    def _observe_scaled(self, norm: Tensor, overflowed: Tensor) -> None:
        """The same for a gradient that GradScaler has scaled; an overflow is not a failure. A loss is not scaled."""
        bad_loss, self._bad_loss = self._bad_loss, False
        bad = is_bad(norm)
        self.statistics.add("steps", 1)
        self.statistics.add("overflowed", overflowed)
        self.skip.decide(bad | overflowed | bad_loss)
        self.statistics.add_norm(norm.masked_fill(overflowed, float("nan")))
        self.statistics.mark_failed(self.progress.steps_in_round, (bad & ~overflowed) | bad_loss)

    def _is_bad(self, norm: Scalar) -> Tensor | bool:
        """Whether the norm is not finite, or a loss that has been recorded since the last gradient."""
        bad, self._bad_loss = is_bad(norm) | self._bad_loss, False
        return bad


def loss_in(returned: Any) -> Tensor | float | None:
    """The loss in what a closure returned, its mean if it has several samples; None if there is none.

    As with torch's optimizers a closure may return anything; `step` returns it unchanged.
    """
    if isinstance(returned, Mapping):
        returned = returned.get("loss")
    elif isinstance(returned, tuple | list) and returned:
        returned = returned[0]
    if isinstance(returned, Tensor):
        return returned.detach().mean() if returned.numel() != 1 and returned.numel() else returned
    return float(returned) if isinstance(returned, Real) else None
