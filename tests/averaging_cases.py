"""The cases of averages that simulated ranks, real ranks and the NumPy reference run alike.

As a script: runs them on the ranks of a backend; rank r saves its trajectories as <folder>/<r>.npz.
"""

import functools
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import averaging_reference
import numpy as np
import torch
from reference import Vector
from torch import nn

import hvdclip
from hvdclip.comm import Communicator

STEPS = 26  # no multiple of any interval above 1, so that the last round is incomplete
SHAPES = ((60, 40), (900,))  # every one of four ranks owns a shard, the last one that is not full
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
EVERY = 4
WEIGHTS = (1.0, 3.0, 2.0, 0.5)
SEED = 4  # with 3 a draw on the edge changes a block's largest entry, and so all of the block
BASE: dict[str, Any] = {"lr": 0.1, "interval": EVERY}
CLIPPED = BASE | {"gamma": 5.0}
Case = tuple[str, dict[str, Any]]  # algorithm, settings

DELAYED = {"overlap": "delayed"}
TOPK = {"compression": "topk", "top_share": 0.1}
INT8 = {"compression": "int8"}
INT4 = {"compression": "int4"}
NODES = {"node_interval": 2}
ALPHA = {"merge_alpha": 0.5}
ADAM = {"outer": "adam", "outer_lr": 0.01}
OUTER = {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.8}
GROWING = {"interval": {0: 1, 5: 2, 12: 6}}
RESET = {"momentum": 0.9, "dampening": 0.3, "momentum_policy": "reset"}
WARM = {"warmup": "gradients", "warmup_steps": 5}
FRAGMENTS = {"averaging": "fragments", "fragments": 2}
EXTRAS: dict[str, dict[str, Any]] = {
    "delayed": DELAYED,
    "delayed by 0": DELAYED | {"delay": 0},
    "delayed by 1": DELAYED | {"delay": 1},
    "delayed, weighted": DELAYED | {"weights": WEIGHTS},
    "delayed, momentum reset": DELAYED | RESET,
    "delayed, momentum kept": DELAYED | {"momentum": 0.9, "weight_decay": 0.1},
    "delayed, outer": DELAYED | OUTER,
    "delayed, growing": DELAYED | GROWING,
    "growing": GROWING,
    "warm-up by averages": {"warmup_steps": 5},
    "warm-up by gradients": WARM | {"momentum": 0.9},
    "warm-up by gradients, weighted, delayed": WARM | DELAYED | {"weights": WEIGHTS},
    "warm-up into a growing interval": WARM | GROWING,
    "fp16": {"compression": "fp16"},
    "bf16": {"compression": "bf16"},
    "int8": INT8,
    "topk": TOPK,
    "topk, momentum reset": TOPK | RESET,
    "topk, weighted": TOPK | {"weights": WEIGHTS},
    "topk, delayed, outer": TOPK | DELAYED | OUTER,
    "topk, warm-up by gradients": TOPK | WARM,
    "int4": INT4,
    "int4, weighted, delayed, outer": INT4 | DELAYED | OUTER | {"weights": WEIGHTS},
    "fragments, int4": FRAGMENTS | INT4,
    "int8, weighted": INT8 | {"weights": WEIGHTS},
    "int8, delayed": INT8 | DELAYED,
    "int8, outer": INT8 | OUTER,
    "fp16, delayed, growing": {"compression": "fp16"} | DELAYED | GROWING,
    "nodes": NODES,
    "nodes, every step": {"node_interval": 1},
    "nodes, every round": {"node_interval": EVERY},
    "nodes, delayed": NODES | DELAYED,
    "nodes, weighted": NODES | {"weights": WEIGHTS},
    "nodes, growing": {"node_interval": 2, "interval": {0: 2, 6: 4}, "warmup_steps": 3},
    "nodes, topk, delayed": NODES | TOPK | DELAYED,
    "fragments": FRAGMENTS,
    "one fragment": FRAGMENTS | {"fragments": 1},
    "fragments, momentum reset": FRAGMENTS | RESET,
    "fragments, weighted, growing": FRAGMENTS | GROWING | {"weights": WEIGHTS},
    "fragments, warm-up by gradients": FRAGMENTS | WARM,
    "fragments, nodes": FRAGMENTS | NODES,
    "fragments, outer": FRAGMENTS | OUTER,
    "fragments, adam outside, growing": FRAGMENTS | GROWING | ADAM,
    "fragments, outer, warm-up by gradients": FRAGMENTS | OUTER | WARM,
    "fragments, delayed": FRAGMENTS | DELAYED,
    "fragments, delayed by 1, outer, alpha": FRAGMENTS | DELAYED | {"delay": 1} | OUTER | ALPHA,
    "fragments, topk, weighted": FRAGMENTS | TOPK | {"weights": WEIGHTS},
    "fragments, int8, delayed, outer": FRAGMENTS | INT8 | DELAYED | OUTER,
    "fragments, bf16, nodes": FRAGMENTS | NODES | {"compression": "bf16"},
    "alpha": DELAYED | ALPHA,
    "alpha 0": DELAYED | {"delay": 2, "merge_alpha": 0.0},
    "alpha, delayed by 0": DELAYED | {"delay": 0} | ALPHA,
    "alpha, outer, momentum reset": DELAYED | {"delay": 2} | ALPHA | ADAM | RESET,
    "alpha, topk": DELAYED | {"delay": 2} | ALPHA | TOPK,
    "one fragment, alpha": FRAGMENTS | {"fragments": 1} | DELAYED | ALPHA,
}
METHODS: dict[str, dict[str, Any]] = {
    "local_sgd": BASE,
    "delta_gclip": CLIPPED | {"delta": 0.5},
    "normalized_sgd": BASE | {"lr": 2.0},
    "mix_clip": CLIPPED,
    "adam_prox": BASE,
}


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name of the case, algorithm, settings)."""
    for title, extra in EXTRAS.items():
        yield f"celgc, {title}", "celgc", CLIPPED | extra
    for algorithm, settings in METHODS.items():
        yield f"{algorithm}, delayed, topk", algorithm, settings | DELAYED | TOPK


def without_reference() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Cases of which only simulated and real ranks are compared here; test_state_intervals.py and test_split.py know
    the rules."""
    adam = {"name": "AdamW", "betas": (0.9, 0.99)}
    states = {"interval": 2, "state_intervals": {"exp_avg": 1, "exp_avg_sq": 3}}
    slow = CLIPPED | {"lr": 0.01}
    yield "celgc, states of AdamW", "celgc", slow | {"inner": adam} | states
    yield (
        "celgc, states of AdamW, outer, weighted",
        "celgc",
        slow | {"inner": adam, "weights": WEIGHTS} | states | OUTER,
    )
    split = {"matrices": {"name": "SGD", "momentum": 0.9}, "others": adam}
    yield "celgc, two inner optimizers, fragments", "celgc", slow | {"inner": split} | FRAGMENTS | OUTER


def runs_on(settings: dict[str, Any], ranks: int) -> bool:
    """Nodes are of two ranks."""
    return ranks > 2 or "node_interval" not in settings


# The problem: rank i's gradient at x on batch t is a_i * x - b_i + noise_it


@functools.cache
def start() -> Vector:
    return np.random.default_rng(0).normal(size=SIZE)


@functools.cache
def quadratic(rank: int) -> tuple[Vector, Vector]:
    a, b = np.random.default_rng((1, rank)).uniform([[0.2], [-1.0]], [[2.0], [1.0]], (2, SIZE))
    return a, b


@functools.cache
def noise(rank: int, batch: int) -> Vector:
    return 0.5 * np.random.default_rng((2, rank, batch)).normal(size=SIZE)


def gradient(rank: int, batch: int, x: Vector) -> Vector:
    a, b = quadratic(rank)
    return a * x - b + noise(rank, batch)


class Model(nn.Module):
    """Parameters of the given dtypes at the start; `x` is all of them."""

    def __init__(self, dtypes: Sequence[torch.dtype] = (torch.float64, torch.float64)):
        super().__init__()
        pieces = np.split(start(), [int(np.prod(SHAPES[0]))])
        self.weights = nn.ParameterList(
            torch.tensor(piece, dtype=dtype).view(shape)
            for piece, shape, dtype in zip(pieces, SHAPES, dtypes, strict=True)
        )

    @property
    def x(self) -> Vector:
        return torch.cat([w.detach().flatten().double() for w in self.weights]).numpy()

    def backward(self, rank: int, batch: int) -> None:
        g = torch.from_numpy(gradient(rank, batch, self.x))
        for w, piece in zip(self.weights, g.split([w.numel() for w in self.weights]), strict=True):
            w.grad = piece.view(w.shape).to(w.dtype)


def build(comm: Communicator, algorithm: str, settings: dict[str, Any], model: nn.Module | None = None):
    """A model and its optimizer; "weights" are those of all ranks."""
    model, chosen = model or Model(), dict(settings)
    torch.manual_seed(SEED)
    if "weights" in chosen:
        chosen["weight"] = chosen.pop("weights")[comm.rank]
    return model, hvdclip.optimizer(algorithm, model, comm=comm, **chosen)


def steps(model: Model, optimizer: Any, first: int = 0, last: int = STEPS) -> list[Vector]:
    """This rank's x after each of the steps."""
    rows = []
    for batch in range(first, last):
        model.backward(optimizer.comm.rank, batch)
        optimizer.step()
        rows.append(model.x)
    return rows


def train(comm: Communicator, algorithm: str, settings: dict[str, Any], model: Model | None = None) -> np.ndarray:
    """This rank's x after each step, and after synchronize()."""
    model, optimizer = build(comm, algorithm, settings, model)
    rows = steps(model, optimizer)
    optimizer.synchronize()
    return np.array([*rows, model.x])


def expected(
    ranks: int, algorithm: str, settings: dict[str, Any], nodes: Sequence[Sequence[int]] = ((0, 1), (2, 3)), g=gradient
) -> averaging_reference.Run:
    """What the reference gives for `train` on all ranks."""
    rules = dict(settings)
    if "weights" in rules:
        rules["weights"] = rules["weights"][:ranks]
    draws = rounding if rules.get("compression") in ("int8", "int4") else None
    return averaging_reference.run(
        algorithm, g, start(), ranks=ranks, steps=STEPS, settings=rules, nodes=nodes, draws=draws
    )


def rounding(rank: int, number: int):
    """What a rank draws in a round (from 0): data to the reference, as the rule that uses it is not."""
    generator = torch.Generator()
    generator.manual_seed(int(np.random.SeedSequence((SEED, number, rank)).generate_state(1)[0]))

    def draws(shape):
        words = torch.empty(int(np.prod(shape)) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        return (words.numpy().view(np.int16).reshape(shape) + np.float32(2**15 + 0.5)) / np.float32(2**16)

    return draws


if __name__ == "__main__":
    folder, backend = sys.argv[1:]
    if backend == "horovod":
        from hvdclip.comm.horovod import initialise

        comm = initialise(process_sets=True)
    else:
        from hvdclip.comm.mpi import Mpi4py

        comm = Mpi4py()
    host = f"host{comm.rank // 2}"
    socket.gethostname = lambda: host
    if backend != "horovod":  # it has asked for the name already
        comm = Mpi4py()
    found = {
        name: train(comm, algorithm, settings)
        for name, algorithm, settings in (*cases(), *without_reference())
        if runs_on(settings, comm.size)
    }
    np.savez(f"{folder}/{comm.rank}.npz", **found)
