"""What the tests set for each algorithm: one table, one row an algorithm.

Beside lr, a threshold and an interval, which each test chooses itself: `settings_of` gives them to the algorithms whose
Settings have them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hvdclip.engine import Bilevel
from hvdclip.methods import METHODS, LocalMethod

Settings = dict[str, Any]
# those that take one loss; tests/bilevel.py has the others
OF_ONE_LOSS = {name: method for name, method in METHODS.items() if not issubclass(method, Bilevel)}

WEIGHTS = (1.0, 3.0, 2.0, 0.5)  # of the ranks
DECAY: Settings = {"weight_decay": 0.1}
MOMENTUM: Settings = {"momentum": 0.9} | DECAY

# What the SGD family's trajectories are compared with
SGD: list[Settings] = [
    {},
    DECAY,
    {"momentum": 0.9, "dampening": 0.3} | DECAY,
    {"momentum": 0.9, "nesterov": True} | DECAY,
    {"weights": WEIGHTS},
]
NORM_OF_UPDATE: list[Settings] = [
    MOMENTUM | {"norm_of": "update"},
    MOMENTUM | {"nesterov": True, "norm_of": "update"},
]
MOMENTUM_POLICIES: list[Settings] = [
    {"momentum": 0.9, "momentum_policy": "average"},
    {"momentum": 0.9, "dampening": 0.3, "momentum_policy": "reset"},
]


@dataclass(frozen=True)
class Row:
    """What a test sets stands on top of `needed`; where it sets several things, each is a case of its own."""

    needed: Settings = field(default_factory=dict)  # what it cannot do without, besides lr and a threshold
    compared: Sequence[Settings] = ({},)  # where its x is held against the published rule; the weights of all ranks
    saved: Sequence[Settings] = ({},)  # where its state is saved and loaded
    left_out: Sequence[Settings] = ({},)  # where all ranks leave a step out: gradient methods
    second: Settings = field(default_factory=dict)  # where a step needs a second gradient
    killed: Settings = field(default_factory=dict)  # where one of its real ranks is killed
    claimed: Settings = field(default_factory=dict)  # where its costs are those that it claims
    interval: int = 5  # I of the compared x, besides 1
    collectives: int = 1  # in a round
    in_turns: bool = False  # its simulated ranks cannot be rows of one tensor
    outer: bool = True  # a local method that takes an outer step


ALGORITHMS: dict[str, Row] = {
    "celgc": Row(
        compared=[*SGD, *NORM_OF_UPDATE, *MOMENTUM_POLICIES],
        saved=[
            {"momentum": 0.9, "dampening": 0.1},
            {"inner": torch.optim.AdamW},
            {"outer": "sgd", "outer_lr": 0.7},
            {"averaging": "fragments", "fragments": 2},
        ],
        killed={"momentum": 0.5},
        interval=4,
    ),
    "local_sgd": Row(
        compared=[*SGD, *MOMENTUM_POLICIES],
        saved=[{"outer": "nesterov", "outer_lr": 0.7}, {"outer": "adam", "outer_lr": 0.01}],
        killed={"momentum": 0.5},
        interval=4,
    ),
    "naive_parallel_clip": Row(
        compared=[*SGD, *NORM_OF_UPDATE],
        saved=[{"momentum": 0.9, "dampening": 0.1}, {"inner": torch.optim.AdamW}],
        left_out=[{}, {"momentum": 0.9}],
        killed={"momentum": 0.5},
    ),
    "minibatch_sgd": Row(compared=SGD, saved=[{"momentum": 0.9}], left_out=[{}, {"momentum": 0.9}]),
    "minibatch_clip": Row(
        compared=[*SGD, *NORM_OF_UPDATE],
        saved=[{"momentum": 0.9}],
        left_out=[{"momentum": 0.9}],
        interval=4,
    ),
    "clip_then_average": Row(
        compared=[*SGD, *NORM_OF_UPDATE],
        saved=[{"momentum": 0.9, "norm_of": "update"}],
        left_out=[{}, {"momentum": 0.9}],
    ),
    "bucket_clip": Row(
        compared=[variant | {"bucket_mb": 1e-6} for variant in SGD],
        saved=[{"momentum": 0.9, "bucket_mb": 1e-4}],
        left_out=[{"momentum": 0.9}, {"bucket_mb": 1e-4}],
        killed={"bucket_mb": 0.01},
        in_turns=True,
    ),
    "fedprox": Row({"mu": 0.5}, compared=[{}, MOMENTUM], killed={"mu": 0.1}),
    "scaffold": Row(
        compared=[{"option": "I"}, {}, DECAY, MOMENTUM],
        saved=[{}, {"option": "I"}],
        second={"option": "I"},
    ),
    "scaffold_clip": Row(compared=[{}, MOMENTUM], saved=[{"momentum": 0.9}]),
    "episode": Row(
        compared=[{}, {"gamma": 0.05} | DECAY, {"gamma": 5.0}, MOMENTUM],
        saved=[{"momentum": 0.9}],
        collectives=2,
    ),
    "episode_pp": Row(
        {"participants": 1},
        compared=[{}, {"gamma": 0.05, "participants": 2} | DECAY, MOMENTUM],
        second={"participants": 2},
        in_turns=True,
    ),
    "delta_gclip": Row({"delta": 0.5}, compared=[{}, {"gamma": 0.05, "delta": 0.0} | DECAY], saved=[{"delta": 0.1}]),
    "mix_clip": Row(compared=[{"beta": 0.8, "nu": 0.7}, {"beta": 0.9, "nu": 0.3} | DECAY]),
    "mom_clip": Row(compared=[{"beta": 0.8}]),
    "normalized_sgd": Row(compared=[{}, MOMENTUM], saved=[{"momentum": 0.9}], killed={"momentum": 0.5}),
    "ian_sgd": Row(
        {"beta": 0.5, "delta": 0.1, "floor": 1.0},
        compared=[{"beta": 0.7, "floor": 0.5}, {"beta": 1.0, "delta": 0.0, "floor": 2.0} | DECAY],
        saved=[{"beta": 0.7, "floor": 0.5}],
        second={"beta": 0.7, "floor": 0.5},
        killed={"beta": 0.7, "floor": 0.5},
    ),
    "sgdol": Row(
        compared=[{"lr": 1.0}, {"lr": 1.0, "M": 3.0, "alpha": 2.0} | DECAY], saved=[{"lr": 1.0}], second={"lr": 1.0}
    ),
    "adam_prox": Row(compared=[{}, {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4} | DECAY], saved=[DECAY]),
    "spider_clip": Row(
        {"anchor_every": 6, "anchor_batches": 3},
        compared=[{"anchor_every": 7}, {"gamma": 0.05, "anchor_every": 4, "anchor_batches": 1} | DECAY],
        saved=[{"anchor_every": 4, "anchor_batches": 2}],
        second={"anchor_every": 3, "anchor_batches": 2},
        killed={"anchor_every": 7, "anchor_batches": 1},
    ),
    "sketched": Row(
        {"width": 3, "server_lr": 0.1},
        compared=[
            {"width": 4, "server_lr": 0.05},
            {"width": 7, "server_lr": 0.02, "server_beta1": 0.5, "sketch_seed": 3} | DECAY,
        ],
        saved=[{"width": 20, "server_lr": 0.01}],
        killed={"width": 64, "server_lr": 0.01},
        claimed={"width": 700},
        in_turns=True,
        outer=False,  # its server's step is one already
    ),
    "clip21": Row(
        {"tau": 0.1},
        compared=[{"tau": 1.0}, {"tau": 0.3} | DECAY, {"tau": 1.0, "weights": WEIGHTS}],
        saved=[{"tau": 0.2}],
        left_out=[{"tau": 0.2}],
        killed={"tau": 1.0},
    ),
    "clip21_sgd2m": Row(
        {"tau": 0.1},
        compared=[
            {"tau": 1.0, "b1": 0.5, "b2": 0.9},
            {"tau": 0.3, "b1": 1.0, "b2": 1.0} | DECAY,
            {"tau": 1.0, "noise": 0.1},
        ],
        saved=[{"tau": 0.2, "noise": 0.1}],
        left_out=[{"tau": 0.2}],
        killed={"tau": 1.0, "noise": 0.01},
    ),
    "norm_ec": Row(
        {"alpha": 0.1, "beta": 0.5},
        compared=[
            {"beta": 0.9} | DECAY,
            {"alpha": 0.5, "beta": 0.7, "noise": 0.1, "noise_seed": 3},
            {"alpha": 0.0, "beta": 0.3, "server": False} | DECAY,
        ],
        saved=[{"noise": 0.1}],
        killed={"beta": 0.9},
    ),
    "ef21_norm": Row(
        compared=[{}, {"b": 0.5, "k": 3}, {"b": 0.8, "k": 10} | DECAY, {"k": 4, "weights": WEIGHTS}],
        saved=[{"k": 10}],
        left_out=[{}, {"k": 5}],
        killed={"k": 8},
        claimed={"k": 500},
    ),
    "decentralized_clip": Row(
        {"tau": 0.1},
        compared=[
            {"tau": 1.0},
            {"tau": 0.5, "lr_decay": 0.7, "tau_growth": 0.1} | DECAY,
            {"tau": 1.0, "radius": 2.0},
        ],
        saved=[{"tau": 1.0}],
        killed={"tau": 1.0},
        collectives=0,
    ),
}


def has(algorithm: str, setting: str) -> bool:
    return setting in METHODS[algorithm].Settings.model_fields


def is_local(algorithm: str) -> bool:
    return issubclass(METHODS[algorithm], LocalMethod)


def settings_of(algorithm: str, more: Settings | None = None, *, gamma: float = 0.1, interval: int = 1) -> Settings:
    """What it needs, with `more` on top, and the threshold and the interval where it has one."""
    shared = {"gamma": gamma, "interval": interval}
    chosen = {name: value for name, value in shared.items() if has(algorithm, name)}
    return chosen | ALGORITHMS[algorithm].needed | (more or {})
