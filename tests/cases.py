"""The cases that simulated ranks, real ranks and the NumPy reference run alike."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from problems import SHAPES, Model, Quadratic, loss, parameters

import hvdclip
from hvdclip.comm import Communicator

STEPS = 13  # no multiple of any interval above 1, so that the last round is incomplete
ETA = 0.1
LR_OF_SECOND_GROUP = 0.03

CLIPPED: dict[str, Any] = {"gamma": 0.15}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "momentum, dampening, weight decay": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov, weight decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "norm of update": {"momentum": 0.9, "weight_decay": 0.1, "norm_of": "update"},
    "norm of update, nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "norm_of": "update"},
    "momentum averaged": {"momentum": 0.9, "momentum_policy": "average"},
    "momentum reset": {"momentum": 0.9, "dampening": 0.3, "momentum_policy": "reset"},
}
LOCAL = ("celgc", "local_sgd")
OTHERS: dict[str, list[dict[str, Any]]] = {
    "fedprox": [{"mu": 0.5}, {"mu": 0.5, "momentum": 0.9, "weight_decay": 0.1}],
    "ian_sgd": [
        {"beta": 0.7, "delta": 0.1, "floor": 0.5},
        {"beta": 1.0, "delta": 0.0, "floor": 2.0, "weight_decay": 0.1},
    ],
    "scaffold": [{"option": "I"}, {}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}],
    "scaffold_clip": [{"gamma": 0.15}, {"gamma": 0.15, "momentum": 0.9, "weight_decay": 0.1}],
    "episode": [
        {"gamma": 0.15},
        {"gamma": 0.05, "weight_decay": 0.1},
        {"gamma": 5.0},
        {"gamma": 0.15, "momentum": 0.9, "weight_decay": 0.1},
    ],
    "delta_gclip": [{"gamma": 0.15, "delta": 0.5}, {"gamma": 0.05, "delta": 0.0, "weight_decay": 0.1}],
    "normalized_sgd": [{}, {"momentum": 0.9, "weight_decay": 0.1}],
    "mix_clip": [{"gamma": 0.15, "beta": 0.8, "nu": 0.7}, {"gamma": 0.15, "beta": 0.9, "nu": 0.3, "weight_decay": 0.1}],
    "mom_clip": [{"gamma": 0.15, "beta": 0.8}],
}
CLIPPING = ("celgc", "naive_parallel_clip", "clip_then_average")

ERROR_FEEDBACK: dict[str, list[dict[str, Any]]] = {
    "clip21": [{"tau": 1.0}, {"tau": 0.3, "weight_decay": 0.1}],
    "clip21_sgd2m": [{"tau": 1.0, "b1": 0.5, "b2": 0.9}, {"tau": 0.3, "b1": 1.0, "b2": 1.0, "weight_decay": 0.1}],
    "norm_ec": [
        {"alpha": 0.1, "beta": 0.9, "weight_decay": 0.1},
        {"alpha": 0.5, "beta": 0.7},
        {"alpha": 0.0, "beta": 0.3, "server": False, "weight_decay": 0.1},
    ],
}


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name of the case, algorithm, settings)."""
    for algorithm in ("celgc", "local_sgd", "naive_parallel_clip", "minibatch_sgd", "clip_then_average"):
        for title, extra in SETTINGS.items():
            if ("norm_of" in extra and algorithm not in CLIPPING) or (
                "momentum_policy" in extra and algorithm not in LOCAL
            ):
                continue
            clipped = CLIPPED if algorithm in CLIPPING else {}
            for interval in (1, 2, 3, 4, 5) if algorithm in LOCAL else (None,):
                averaged = {} if interval is None else {"interval": interval}
                yield f"{algorithm}, {title}, I = {interval}", algorithm, clipped | extra | averaged

    for algorithm, variants in OTHERS.items():
        for settings in variants:
            for interval in (1, 3, 5):
                yield f"{algorithm}, {settings}, I = {interval}", algorithm, settings | {"interval": interval}

    for algorithm, variants in ERROR_FEEDBACK.items():
        for settings in variants:
            yield f"{algorithm}, {settings}", algorithm, settings


def train(comm: Communicator, algorithm: str, settings: dict[str, Any]) -> np.ndarray:
    """This rank's x after each step (after the average, where there is one) and after synchronize()."""
    problem = Quadratic(comm.size)
    model = Model(problem.start())
    groups = [{"params": [model.weights[0]]}, {"params": [model.weights[1]], "lr": LR_OF_SECOND_GROUP}]
    optimizer = hvdclip.optimizer(algorithm, groups, comm=comm, lr=ETA, **settings)
    trajectory, draws = [], itertools.count()

    def closure():
        optimizer.zero_grad()
        value = loss(problem, comm.rank, next(draws), model)
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
    lr = np.full(problem.start().shape, ETA)
    lr[-second:] = LR_OF_SECOND_GROUP
    rules = dict(settings)
    c = rules.pop("gamma") / ETA if "gamma" in rules else np.inf
    rules["wd"] = rules.pop("weight_decay", 0.0)
    x = reference.run(
        algorithm, problem.gradient, problem.start(), ranks=ranks, steps=STEPS, lr=lr, eta=ETA, c=c, **rules
    )
    interval = settings.get("interval", 1)
    averaged = [*range(interval, STEPS + 1, interval)]
    for step in averaged if algorithm in (*LOCAL, *OTHERS) else []:
        x[step - 1] = x[step - 1].mean(axis=0)
    return x.transpose(1, 0, 2)
