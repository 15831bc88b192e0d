"""Bilevel methods on the problems with known answers, followed step by step, and those answers."""

import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

import hvdclip
from hvdclip.comm import Communicator
from hvdclip.problems import PROBLEMS

Settings = dict[str, Any]
WARM = 3
# eta .05 normalised where nothing else is said; 20 terms where there is a sum
CLIPPED = {"upper_step": "clipped", "lr": 0.1, "gamma": 0.05}
PLAIN = {"upper_step": "plain", "lr": 0.1}
OFTEN = {"lower_period": 2, "lower_steps": 3}
SUM = {"estimator": "neumann", "terms": 20}
UNLIKE = {"bilevel_quadratic": {"spread": 0.5, "stretch": 0.3}}
UNLIKE["bilevel_cosh"] = UNLIKE["bilevel_quadratic"] | {"shift": 0.5}


@dataclass
class Followed:
    """What one rank had: x after step k (of the warm start k <= 0), in the end y and z, and the optimizer."""

    x: dict[int, Tensor] = field(default_factory=dict)
    y: Tensor | None = None
    z: Tensor | None = None
    optimizer: Any = None


class Run:
    """One rank's parameters, losses and optimizer on a problem; `calls` counts what is asked of the losses."""

    def __init__(self, comm: Communicator, name: str, settings: Settings, data: str = "bilevel_quadratic", **more: Any):
        chosen = {"lower": "shared", "lr": 0.05, "lower_lr": 0.25, "warm_start": WARM} | settings
        if chosen.get("refine") == "epochs":
            del chosen["warm_start"]
        if name in ("accbo", "adambo") and "estimator" not in settings:
            chosen |= SUM
        unlike = UNLIKE[data] if comm.size > 1 else {}
        self.problem = PROBLEMS[data](comm.size, **{"lower": chosen["lower"]} | unlike | more)
        self.x, self.y = nn.Parameter(self.problem.start.clone()), nn.Parameter(self.problem.lower_start.clone())
        self.rank, self.calls = comm.rank, {"upper": 0, "lower": 0}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "estimator neumann with lower shared")
            self.optimizer = hvdclip.optimizer(name, [self.x], lower_parameters=[self.y], comm=comm, **chosen)

    def upper(self, again: bool = False) -> Tensor:
        self.calls["upper"] += 1
        return self.problem.upper_loss(self.x, self.y, self.rank)

    def lower(self, again: bool = False) -> Tensor:
        self.calls["lower"] += 1
        return self.problem.lower_loss(self.x, self.y, self.rank)

    def step(self) -> None:
        self.optimizer.step(upper=self.upper, lower=self.lower)

    def follow(self, steps: int) -> Followed:
        """So many steps after the warm start."""
        found, warm = Followed(optimizer=self.optimizer), self.optimizer.warm_start
        for number in range(1, warm + steps + 1):
            self.step()
            found.x[number - warm] = self.x.detach().clone()
        found.y, z = self.y.detach().clone(), self.optimizer.vectors.get("z")
        found.z = None if z is None else z.parts[0].clone()
        return found


def follow(comm: Communicator, name: str, settings: Settings, steps: int, data: str = "bilevel_quadratic", **more: Any):
    return Run(comm, name, settings, data, **more).follow(steps)


def numbers(text: str) -> list[list[float]]:
    """Pairs of numbers, two to a point."""
    found = [float(word) for word in text.split()]
    return [found[i : i + 2] for i in range(0, len(found), 2)]


# x after k = 1, 10, 100 (and 1000) steps on one rank
QUADRATIC = [
    (
        "bo_rep",
        {},
        "1.9552786405 -.9776393202 2.0472191637 -.5469953703 1.5960741940 .4188248371 1.3029241407 -.1117597094",
    ),
    (
        "slip",
        {},
        "1.9552786405 -.9776393202 2.0483293577 -.5475371597 1.2408257018 -.1832794232 1.6328503510 .2693529767",
    ),
    (
        "slip",
        CLIPPED,
        "1.9980000000 -.9990000000 2.0728994734 -.7558422511 1.7376991655 .0097241587 1.4736844717 .1052630222",
    ),
    (
        "accbo",
        {},
        "2.0204622877 -.9543787902 2.1833830501 -.5353269462 1.4961236791 .1496775885 1.4961214105 .1497110671",
    ),
    ("accbo", OFTEN, "2.0204116814 -.9543561257 2.1808723470 -.5344229661 1.4475157223 .0600906132"),
    (
        "adambo",
        {},
        "2.0499999989 -.9500000005 2.4630489697 -.5210376382 1.5471763527 .1322524973 1.5181750961 .1510844253",
    ),
    (
        "adambo",
        {"estimator": "linear"},
        "1.9500000025 -.9500000050 2.1946993219 -.5147469970 1.3289942504 -.1425877327 1.2279397041 -.1322272762",
    ),
]
# after k = 10 and 100
QUADRATIC_TOO = [
    ("slip", {"lower_first": True}, "2.0432427137 -.5468936117 1.5222078305 .3174077667"),
    ("bo_rep", {"radius": 0.05}, "2.0513463016 -.5484450471 .8581226668 -.6429723978"),
]
# the mean of x over four unlike ranks, I = 4: shared k = 4, k = 100, own k = 4, k = 100
QUADRATIC_ON_FOUR = [
    (
        "bo_rep",
        {},
        "1.9500478184 -.8309187377 1.3550803811 .1608547292 1.9475392963 -.8416963984 1.3742853723 .2042290853",
    ),
    (
        "slip",
        {},
        "1.9485594210 -.8308824535 1.4050894312 .1503868503 1.9477144048 -.8417536271 1.1797136968 -.0362090648",
    ),
    (
        "slip",
        CLIPPED,
        "1.9997638368 -.9671217676 1.6941309601 .0377595814 1.9998391057 -.9662269563 1.6212489032 .1687612241",
    ),
    (
        "accbo",
        {},
        "2.0764660580 -.8175328295 1.5082197595 .0949644088 2.0667171708 -.8163662456 1.7423423571 -.0139595090",
    ),
    (
        "adambo",
        {},
        "2.1910285960 -.8049999308 1.5690738356 .0180502453 2.1953276273 -.8006022750 1.3163137005 .2649339466",
    ),
]
MOMENTUM_AVERAGED = [
    ("slip", "1.052832401 -.2611067593"),
    ("accbo", "1.3946393798 .1935106501"),
    ("adambo", "1.4483419944 .0595606163"),
]
# x on one rank after k = 1, 10, 100, 1000, and the length of the gradient there
COSH = [
    (
        "bo_rep",
        {},
        "7.9504516902 -5.9932944059 7.5056495717 -5.9252305796 3.6956333053 -3.7281221866 .4895689898 .3940599830",
        0.22350,
    ),
    (
        "slip",
        {},
        "7.9504516902 -5.9932944059 7.5056495709 -5.9252305815 3.6956320556 -3.7281293414 .1417029361 .1575540206",
        0.57250,
    ),
    (
        "slip",
        CLIPPED,
        "7.9504516902 -5.9932944059 7.5056495709 -5.9252305815 3.6956320556 -3.7281293415 .3573518262 .3728342139",
        1.1e-9,
    ),
    (
        "accbo",
        {},
        "7.9504559864 -5.9932627369 7.5067859425 -5.9184598770 3.7245147233 -3.6060097721 .3432404288 .3434156212",
        0.068945,
    ),
    (
        "accbo",
        OFTEN,
        "7.9504559872 -5.9932627309 7.5067859670 -5.9184597386 3.7245048497 -3.6060205534 .3810588734 .3479768455",
        0.040529,
    ),
    (
        "adambo",
        {},
        "7.9500000000 -5.9500000000 7.5097559666 -5.5096929052 5.3453117080 -3.3267352616 2.1117026099 -.2796652078",
        3.9740,
    ),
]
# four unlike ranks, I = 4: shared k = 4, 100, 1000, own k = 1000
COSH_ON_FOUR = [
    (
        "bo_rep",
        {},
        "7.8019416225 -5.9722090120 3.6975758349 -3.7256632025 .3217628762 .3385659693 .3070162803 .3937628807",
    ),
    (
        "slip",
        {},
        "7.8019416377 -5.9722089072 3.6975701803 -3.7256828340 .3077349787 .3304570560 .3108299286 .3928393651",
    ),
    (
        "slip",
        CLIPPED,
        "7.8019416377 -5.9722089072 3.6975701803 -3.7256828340 .2989994170 .3272409065 .3303478887 .3726797916",
    ),
    (
        "accbo",
        {},
        "7.8020806487 -5.9712580665 3.7256878656 -3.6044381290 .3945432150 .2972234873 .3666381264 .3455847655",
    ),
    (
        "adambo",
        {},
        "7.8006967350 -5.8006920079 5.3452948902 -3.3241939594 2.1151695909 -.3055377477 2.1102195659 -.3149171978",
    ),
]
# clipped slip on four unlike ranks after 5000 steps
STOPS = {
    ("shared", "linear"): ["1.47368421 .10526316", "1.38041384 .13385381", "1.33889876 .23450027"],
    ("shared", "neumann"): ["1.38879591 .14245972", "1.31595206 .18973964", "1.32019266 .25140822"],
    ("own", "linear"): ["1.29633567 .27836467", "1.29839780 .27899854", "1.30529193 .27986908"],
    ("own", "neumann"): ["1.29615884 .27819311", "1.29822570 .27884353", "1.30497882 .27955092"],
}

# what real ranks do, each in one launch: (data, name, settings, steps)
ON_FOUR = [
    (data, name, settings | {"interval": 4, "lower": lower}, 100)
    for data, rows in (("bilevel_quadratic", QUADRATIC_ON_FOUR), ("bilevel_cosh", COSH_ON_FOUR))
    for name, settings, _ in rows
    for lower in ("shared", "own")
]

if __name__ == "__main__":
    from hvdclip.comm.environment import launched

    comm = launched()
    found = [follow(comm, name, settings, steps, data).x[steps].numpy() for data, name, settings, steps in ON_FOUR]
    np.savez(f"{sys.argv[1]}/{comm.rank}.npz", *found)
