"""One clipped step from given gradients: hvdclip's, torch's clip_grad_norm_ with SGD, and what memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hvdclip.bench.blocks import Peer, measure
from hvdclip.bench.report import Report, device_name
from hvdclip.bench.shapes import Shape, parameters, size_in_words
from hvdclip.comm import Communicator, SingleRank
from hvdclip.flat.norm import ROW
from hvdclip.methods import optimizer
from hvdclip.torch_private import foreach_copy_

LR, MAX_NORM, DECAY = 1.0, 0.25, 1.2e-6
NEVER = 10**9  # steps until an average
FLOOR, COPY = "floor: norm, then x -= a g", "floor: copy"
SGD: dict[str, dict[str, bool]] = {
    "default": {},
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


class Gradients:
    """The same gradients for every peer; clip_grad_norm_ scales them in place, so they are restored before each run."""

    def __init__(self, of: list[Shape], device: torch.device | str = "cpu"):
        self.device, generator = device, torch.Generator().manual_seed(2)
        self.given = [torch.empty(shape).normal_(generator=generator).to(device) for shape in of]
        self.parts = [given.clone() for given in self.given]
        self.norm = torch.linalg.vector_norm(torch.stack([g.double().norm() for g in self.given]))

    def restore(self) -> None:
        foreach_copy_(self.parts, self.given)

    def of(self, params: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """These parameters, with these gradients."""
        for p, part in zip(params, self.parts, strict=True):
            p.grad = part
        return params


def compare(of: list[Shape], comm: Communicator, blocks: int, device: torch.device | str = "cpu") -> Report:
    gradients = Gradients(of, device)
    peers = [_ours(of, gradients, decay) for decay in (0.0, DECAY)]
    peers += [_torch(of, gradients, kind, decay) for decay in (0.0, DECAY) for kind in SGD]
    peers += _floors(of, gradients)
    measured = measure(peers, comm, blocks)
    torchs = [name for name in measured.seconds if name.startswith("clip_grad_norm_")]

    def fastest(name: str) -> str:
        return min((other for other in torchs if _decays(other) == _decays(name)), key=measured.median)

    references: dict[str, Callable[[str], str | None]] = {
        "to floor": lambda name: FLOOR,
        "to foreach": lambda name: _torch_name("foreach", DECAY if _decays(name) else 0.0),
        "to fastest clip + SGD": fastest,
    }
    return Report(
        f"one clipped step over {size_in_words(of)} on {device_name(torch.device(device))}", measured, references, {}
    )


def _ours(of: list[Shape], gradients: Gradients, decay: float) -> Peer:
    params = gradients.of(parameters(of, gradients.device))
    ours = optimizer(
        "celgc",
        params,
        comm=SingleRank(),
        lr=LR,
        max_norm=MAX_NORM,
        weight_decay=decay,
        interval=NEVER,
        drift=False,
    )
    return checked(f"hvdclip celgc{_suffix(decay)}", params, gradients, ours.step)


def _torch(of: list[Shape], gradients: Gradients, kind: str, decay: float) -> Peer:
    params = gradients.of(parameters(of, gradients.device))
    sgd = torch.optim.SGD(params, LR, weight_decay=decay, **SGD[kind])
    # a fused SGD leaves the clipping to foreach, the fastest there is
    foreach = None if kind == "default" else kind != "for-loop"

    def step() -> None:
        nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=foreach)
        sgd.step()

    return checked(_torch_name(kind, decay), params, gradients, step)


def checked(name: str, params: Sequence[nn.Parameter], gradients: Gradients, step: Callable[[], Any]) -> Peer:
    """The peer, whose first step was seen to be the clipped one."""
    before = [p.detach().clone() for p in params]
    gradients.restore()
    step()
    scale = LR * min(1.0, MAX_NORM / gradients.norm.item())
    off, moved = 0.0, 0.0
    for p, old, g in zip(params, before, gradients.given, strict=True):
        off += float((p.detach() - old + scale * g).square().sum(dtype=torch.float64))
        moved += float((scale * g).square().sum(dtype=torch.float64))
    if off > 1e-4 * moved:  # in squares; weight decay moves x by less
        raise AssertionError(f"{name} does not take the clipped step")
    return Peer(name, step, gradients.restore)


def _floors(of: list[Shape], gradients: Gradients) -> list[Peer]:
    x, given = (
        torch.cat([t.detach().flatten() for t in tensors])
        for tensors in (parameters(of, gradients.device), gradients.given)
    )
    g, y = given.clone(), x.clone()
    # written just before, as the others' gradients are
    return [
        Peer(FLOOR, partial(floor, x, g), lambda: g.copy_(given)),
        Peer(COPY, lambda: y.copy_(x), lambda: x.copy_(given)),
    ]


def floor(x: Tensor, g: Tensor) -> None:
    """What a clipped step must read and write: g for its norm, then x and g, then x.

    Of the ways to read g that are exact, one norm a row is the fastest.
    """
    torch.linalg.vector_norm(g[: g.numel() // ROW * ROW].view(-1, ROW), dim=1)
    x.add_(g, alpha=-1e-9)


def _torch_name(kind: str, decay: float) -> str:
    return f"clip_grad_norm_ + SGD, {kind}{_suffix(decay)}"


def _suffix(decay: float) -> str:
    return ", wd" if decay else ""


def _decays(name: str) -> bool:
    return name.endswith(_suffix(DECAY))
