"""What bilevel training takes from autograd: gradients of two losses, and products with second derivatives of one.

F is the upper loss and G the lower one, on one batch each, at the current upper parameters x and lower parameters y.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.flat import Gradient, Space, Vector
from hvdclip.torch_private import foreach_add

Loss = Callable[..., Tensor]
Look = Callable[[Gradient], Gradient]
NO_SECOND_DERIVATIVE = ("derivative for", "once_differentiable", "differentiate twice", "double backward")


class Point:
    """F and G at one (x, y): Fx, Fy, Gy, and the graph of Gy as long as this lives."""

    def __init__(self, levels: Levels, fx: Gradient, fy: Gradient, gy: list[Tensor]):
        self.levels, self.fx, self.fy = levels, fx, fy
        self._graph = gy
        self.gy = levels.lower_gradient([part.detach() for part in gy])

    def products(self, v: Vector) -> tuple[Gradient, Gradient]:
        """J v and H v from one backward pass, the last one through this graph.

        J v is the gradient in x of <Gy, v>, H the second derivative of G in y.
        """
        upper, lower = (space.parameters for space in self.levels.spaces)
        found = self._second([*upper, *lower], v, keep=False)
        return self.levels.upper_gradient(found[: len(upper)]), self.levels.lower_gradient(found[len(upper) :], v)

    def times_h(self, v: Vector) -> Vector:
        """H v; the graph stays. One of many: only `times_j` looks at what they have become."""
        return Vector(self.levels.with_l2(self._second(self.levels.spaces[1].parameters, v, keep=True), v))

    def times_j(self, v: Vector) -> Gradient:
        """J v, the last product from this graph."""
        self.levels.look(self.levels.spaces[1].gradient(v.parts))
        return self.levels.upper_gradient(self._second(self.levels.spaces[0].parameters, v, keep=False))

    def _second(self, parameters: Sequence[Tensor], v: Vector, keep: bool) -> Sequence[Tensor | None]:
        pairs = [(g, part) for g, part in zip(self._graph, v.parts, strict=True) if g.requires_grad]
        if not pairs:  # G is linear in y
            return [None for _ in parameters]
        gy, parts = zip(*pairs, strict=True)
        with _in_one_line():
            return torch.autograd.grad(gy, parameters, parts, retain_graph=keep, allow_unused=True)


class Levels:
    """The two losses of a step, and the spaces of x and y in which their gradients lie.

    `l2` adds l2/2 ||y||^2 to G. `look` is called with what autograd returns, `record` with the losses.
    """

    def __init__(
        self, spaces: Sequence[Space], y: Vector, l2: float, look: Look, record: Callable[[str, Tensor], None]
    ):
        self.spaces, self.y, self.l2, self.look, self.record = spaces, y, l2, look, record
        self.upper_loss: Loss
        self.lower_loss: Loss

    def gradient_below(self) -> Gradient:
        """Gy on a fresh batch, without a graph."""
        with torch.enable_grad():
            g = self._value("lower", self.lower_loss())
            return self.lower_gradient(self._below(_gradients(g, self.spaces[1].parameters)))

    def point(self, again: bool = False) -> Point:
        """F and G on a fresh batch of each, or on the last ones if `again`."""
        upper, lower = (space.parameters for space in self.spaces)
        told: dict[str, Any] = {"again": True} if again else {}
        with torch.enable_grad():
            f = self._value("upper", self.upper_loss(**told), again)
            of_f = _gradients(f, [*upper, *lower])
            if all(part is None for part in of_f):
                raise TypeError(
                    "the upper loss does not depend on the upper or the lower parameters; allowed: a loss that is "
                    "computed from some of them, without detach() and outside of torch.no_grad()"
                )
            fx = self.upper_gradient(of_f[: len(upper)])
            fy = self.look(self.spaces[1].gradient(self._parts(1, of_f[len(upper) :])))
            with _without_cudnn(self.spaces[1].owner.module):
                g = self._value("lower", self.lower_loss(**told), again)
            with _in_one_line():
                gy = _gradients(g, lower, create_graph=True)
            return Point(self, fx, fy, self._below(gy))

    def upper_gradient(self, parts: Sequence[Tensor | None]) -> Gradient:
        """These gradients as a vector of x, zero for parameters without one."""
        return self.look(self.spaces[0].gradient(self._parts(0, parts)))

    def lower_gradient(self, parts: Sequence[Tensor | None], v: Vector | None = None) -> Gradient:
        """The same for y, plus the gradient of the l2 term: l2 v, or l2 y."""
        return self.look(self.spaces[1].gradient(self.with_l2(parts, self.y if v is None else v)))

    def with_l2(self, parts: Sequence[Tensor | None], v: Vector) -> list[Tensor]:
        """l2 v added to them."""
        found = self._parts(1, parts)
        return list(foreach_add(found, v.parts, alpha=self.l2)) if self.l2 else found

    def _below(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        """Gy with its graph."""
        if all(part is None for part in parts):
            raise TypeError(
                "the lower loss does not depend on the lower parameters; allowed: a loss that is computed from them, "
                "without detach() and outside of torch.no_grad()"
            )
        zipped = zip(self.spaces[1].parameters, parts, strict=True)
        return [torch.zeros_like(p) if part is None else part for p, part in zipped]

    def _parts(self, level: int, parts: Sequence[Tensor | None]) -> list[Tensor]:
        space = self.spaces[level]
        zipped = zip(space.parameters, parts, strict=True)
        return space.in_order([torch.zeros_like(p) if part is None else part.detach() for p, part in zipped])

    def _value(self, level: str, loss: Any, again: bool = False) -> Tensor:
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            what = f"{type(loss).__name__}" if not isinstance(loss, Tensor) else f"tensor of shape {tuple(loss.shape)}"
            graph = " without a graph" if isinstance(loss, Tensor) and not loss.requires_grad else ""
            raise TypeError(
                f"the {level} loss is a {what}{graph}; allowed: the loss as a tensor of one number with its graph, "
                "without calling backward()"
            )
        if not again:
            self.record(level, loss.detach())
        return loss.reshape(())


def _gradients(loss: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Sequence[Tensor | None]:
    return torch.autograd.grad(loss, parameters, create_graph=create_graph, allow_unused=True)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Inside, an operation without a second derivative is a one-line error that names it."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if not any(words in said for words in NO_SECOND_DERIVATIVE):
            raise
        name = re.search(r"derivative for '?([\w:]+)", said)
        what = name[1].removeprefix("aten::") if name else said.partition("\n")[0]
        raise RuntimeError(
            f"the lower loss has no second derivative: {what}; allowed: operations that can be differentiated twice "
            "(attention by torch.nn.attention.sdpa_kernel(SDPBackend.MATH), recurrent layers without cuDNN)"
        ) from None


@contextmanager
def _without_cudnn(module: nn.Module | None) -> Iterator[None]:
    """cuDNN's recurrent layers have no second derivative; torch's own layers have one."""
    recurrent = module is not None and any(isinstance(each, nn.RNNBase) for each in module.modules())
    if not (recurrent and torch.backends.cudnn.is_available()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
