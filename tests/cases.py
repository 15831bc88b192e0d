"""The cases that simulated ranks, real ranks and the NumPy reference run alike."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from algorithms import ALGORITHMS, WEIGHTS, has, is_local, settings_of
from problems import SHAPES, SIZE, Model, Quadratic, loss, parameters

import hvdclip
from hvdclip.comm import Communicator
from hvdclip.methods import METHODS

STEPS = 53  # no multiple of any interval above 1, so that the last round is incomplete
ETA = 0.1
LR_OF_SECOND_GROUP = 0.03
GAMMA = 0.15

OUTER: list[dict[str, Any]] = [
    {"outer": "sgd", "outer_lr": 0.7},
    {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.8},
    {"outer": "adam", "outer_lr": 0.05, "outer_beta1": 0.8},
]


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name of the case, algorithm, settings)."""
    for algorithm, chosen in [*variants(), *outer_steps()]:
        yield f"{algorithm}, {chosen}", algorithm, chosen


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    for algorithm, row in ALGORITHMS.items():
        intervals = (1, row.interval) if has(algorithm, "interval") else (1,)
        for variant in row.compared:
            for interval in intervals:
                yield algorithm, settings_of(algorithm, variant, gamma=GAMMA, interval=interval)


def outer_steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """One of the outer steps with each local method, and all of them with ranks of different weights."""
    local = [algorithm for algorithm, row in ALGORITHMS.items() if is_local(algorithm) and row.outer]
    for algorithm, outer in zip(local, itertools.cycle(OUTER), strict=False):
        first = ALGORITHMS[algorithm].compared[0]
        yield algorithm, settings_of(algorithm, first | outer, gamma=GAMMA, interval=4)
    for outer in OUTER:
        yield "celgc", settings_of("celgc", outer | {"weights": WEIGHTS}, gamma=GAMMA, interval=3)


def train(comm: Communicator, algorithm: str, settings: dict[str, Any]) -> np.ndarray:
    """This rank's x after each step (after the average, where there is one) and after synchronize()."""
    problem = Quadratic(comm.size)
    model = Model(problem.start())
    chosen = {"lr": ETA} | settings
    if "weights" in chosen:
        chosen["weight"] = chosen.pop("weights")[comm.rank]
    if "participants" in chosen:
        chosen["participants"] = min(chosen["participants"], comm.size)
    second = chosen["lr"] * LR_OF_SECOND_GROUP / ETA
    groups = [{"params": [model.weights[0]]}, {"params": [model.weights[1]], "lr": second}]
    optimizer = hvdclip.optimizer(algorithm, groups, comm=comm, **chosen)
    trajectory, batch = [], -1

    def closure(again=False):
        nonlocal batch
        batch += not again
        optimizer.zero_grad()
        value = loss(problem, comm.rank, batch, model)
        value.backward()
        return value

    for _ in range(STEPS):
        optimizer.step(closure)
        trajectory.append(parameters(model))
    optimizer.synchronize()
    return np.array([*trajectory, parameters(model)])


def expected(ranks: int, algorithm: str, settings: dict[str, Any]) -> np.ndarray:
    """What the reference gives for `train` on all ranks: (ranks, steps + 1, d)."""
    import reference

    problem = Quadratic(ranks)
    second = int(np.prod(SHAPES[1]))
    rules = {"lr": ETA} | settings
    lr = np.full(SIZE, rules["lr"])
    lr[-second:] *= LR_OF_SECOND_GROUP / ETA
    if "weights" in rules:
        rules["weights"] = rules["weights"][:ranks]
    if algorithm == "bucket_clip":
        rules["buckets"] = [slice(SIZE - second, SIZE), slice(0, SIZE - second)]
    if algorithm == "decentralized_clip":
        rules = {"lr_decay": 1.0, "tau_growth": 0.4} | rules
    if "outer" in rules and rules["outer"] != "adam":
        rules = {"outer_momentum": METHODS["celgc"].Settings.model_fields["outer_momentum"].default} | rules
    x = reference.run(
        algorithm,
        problem.gradient,
        problem.start(),
        ranks=ranks,
        steps=STEPS,
        lr=lr,
        settings=rules,
        participants=drawn(ranks, min(rules["participants"], ranks)) if "participants" in rules else None,
        sketch=hashes(rules.get("width"), rules.get("sketch_seed", 0)),
        noise=noise(rules["noise"], rules.get("noise_seed", 0)) if "noise" in rules else None,
    )
    return x.transpose(1, 0, 2)


# What is drawn at random: the draws themselves are data to the reference, the rules that use them are not.


def drawn(ranks: int, participants: int):
    return lambda round_: sorted(np.random.default_rng((0, round_)).choice(ranks, participants, replace=False))


def hashes(width: int, seed: int):
    def of_round(round_):
        draw = np.random.default_rng((seed, round_))
        return draw.integers(width, size=SIZE), draw.integers(2, size=SIZE) * 2.0 - 1

    return of_round


def noise(deviation: float, seed: int):
    @functools.cache
    def stream(rank):
        generator = torch.Generator()
        generator.manual_seed(int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]))
        parts = [
            [torch.empty(s, dtype=torch.float64).normal_(generator=generator) for s in SHAPES] for _ in range(STEPS)
        ]
        return [deviation * torch.cat([part.flatten() for part in step]).numpy() for step in parts]

    return lambda rank, step: stream(rank)[step]
