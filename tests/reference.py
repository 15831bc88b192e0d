"""The published rules in plain NumPy, float64, one line a formula; shares no code with the package.

Liu, Zhuang, Lei, Liao, NeurIPS 2022, Algorithm 1, with weight decay, momentum and dampening as in their published
optimizer: the norm is that of the raw gradient, the direction d = g + wd*x goes through the momentum.
"""

import itertools
from collections.abc import Callable

import numpy as np

Gradient = Callable[[int, int, np.ndarray], np.ndarray]


class Rank:
    """One rank's x and momentum."""

    def __init__(
        self, x: np.ndarray, lr: np.ndarray, wd: np.ndarray, momentum: float, dampening: float, nesterov: bool
    ):
        self.x, self.lr, self.wd = x.copy(), lr, wd
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.buf: np.ndarray | None = None
        self.m = np.zeros_like(x)
        self.c_i = np.zeros_like(x)
        self.c = np.zeros_like(x)
        self.u_i, self.v_i, self.v = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)

    def direction(self, g: np.ndarray) -> np.ndarray:
        d = g + self.wd * self.x
        if self.momentum == 0:
            return d
        self.buf = d.copy() if self.buf is None else self.momentum * self.buf + (1 - self.dampening) * d
        return d + self.momentum * self.buf if self.nesterov else self.buf


def run(
    name: str,
    gradient: Gradient,
    x0: np.ndarray,
    *,
    ranks: int,
    steps: int,
    lr: np.ndarray,
    eta: float,
    c: float = np.inf,
    interval: int = 1,
    wd: np.ndarray | float = 0.0,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    norm_of: str = "gradient",
    momentum_policy: str = "keep",
    **own: float,
) -> np.ndarray:
    """x of every rank after every step, before the average, and once more after the last one: (steps + 1, ranks, d).

    lr and wd are per entry (parameter groups); eta is the step size that gamma refers to, c = gamma/eta.
    """
    wd = np.broadcast_to(np.asarray(wd, dtype=float), x0.shape)
    world = [Rank(x0, lr, wd, momentum, dampening, nesterov) for _ in range(ranks)]
    trajectory = []
    draws = [itertools.count() for _ in world]
    since = 0
    for _ in range(steps):
        if name == "scaffold" and own.get("option") == "I" and since == 0:
            for i, r in enumerate(world):
                r.fresh = gradient(i, next(draws[i]), r.x)
        if name == "episode" and since == 0:
            start_episode(world, [gradient(i, next(draws[i]), r.x) for i, r in enumerate(world)], c)
        g = [gradient(i, next(draws[i]), r.x) for i, r in enumerate(world)]
        if name in LOCAL_STEPS:
            for r, gi in zip(world, g, strict=True):
                if since == 0:
                    r.x_round, r.g_round = r.x.copy(), []
                r.g_round.append(gi)
                if name == "ian_sgd":
                    i = world.index(r)
                    own["other"] = gradient(i, next(draws[i]), r.x)
                r.x = LOCAL_STEPS[name](r, gi, eta, c, **own)
            trajectory.append([r.x.copy() for r in world])
            since += 1
            if since == interval:
                end_round(name, world, own.get("option", "II"))
                average(world, momentum_policy)
                since = 0
            continue
        if name in ("celgc", "local_sgd"):
            for r, gi in zip(world, g, strict=True):
                d = r.direction(gi)
                r.x = r.x - r.lr * factor(gi if norm_of == "gradient" else d, eta, c * eta) * d
            trajectory.append([r.x.copy() for r in world])
            since += 1
            if since == interval:
                average(world, momentum_policy)
                since = 0
            continue
        if name in ("minibatch_sgd", "naive_parallel_clip"):
            common = sum(g) / ranks
            for r in world:
                d = r.direction(common)
                r.x = r.x - r.lr * factor(common if norm_of == "gradient" else d, eta, c * eta) * d
        elif name == "clip_then_average" and norm_of == "gradient":
            common = sum(clip(gi, c) for gi in g) / ranks
            for r in world:
                r.x = r.x - r.lr * r.direction(common)
        elif name == "clip_then_average":
            d = [r.direction(gi) for r, gi in zip(world, g, strict=True)]
            common = sum(clip(di, c) for di in d) / ranks
            for r in world:
                r.x = r.x - r.lr * common
        elif name in ERROR_FEEDBACK:
            messages = [ERROR_FEEDBACK[name][0](r, gi, **own) for r, gi in zip(world, g, strict=True)]
            for r in world:
                ERROR_FEEDBACK[name][1](r, sum(messages) / ranks, **own)
        else:
            raise AssertionError(name)
        trajectory.append([r.x.copy() for r in world])
    if since:
        end_round(name, world, own.get("option", "II"))
        average(world, momentum_policy)
    trajectory.append([r.x.copy() for r in world])
    return np.array(trajectory)


def clip(v: np.ndarray, c: float) -> np.ndarray:
    return v if norm(v) <= c else c / norm(v) * v


def clip21_message(r: Rank, g: np.ndarray, tau: float) -> np.ndarray:
    m = clip(g - r.v_i, tau)
    r.v_i = r.v_i + m
    return m


def clip21_step(r: Rank, m: np.ndarray, tau: float) -> None:
    r.v = r.v + m
    r.x = r.x - r.lr * (r.v + r.wd * r.x)


def sgd2m_message(r: Rank, g: np.ndarray, tau: float, b1: float, b2: float) -> np.ndarray:
    r.u_i = (1 - b1) * r.u_i + b1 * g
    m = clip(r.u_i - r.v_i, tau)
    r.v_i = r.v_i + b2 * m
    return m


def sgd2m_step(r: Rank, m: np.ndarray, tau: float, b1: float, b2: float) -> None:
    r.v = r.v + b2 * m
    r.x = r.x - r.lr * (r.v + r.wd * r.x)


def norm_ec_message(r: Rank, g: np.ndarray, alpha: float, beta: float, server: bool = True) -> np.ndarray:
    m = (g - r.v_i) / (alpha + norm(g - r.v_i))
    r.v_i = r.v_i + beta * m
    return m


def norm_ec_step(r: Rank, m: np.ndarray, alpha: float, beta: float, server: bool = True) -> None:
    r.v = r.v + beta * m
    r.x = r.x - r.lr * ((r.v / norm(r.v) if server else r.v) + r.wd * r.x)


ERROR_FEEDBACK = {
    "clip21": (clip21_message, clip21_step),
    "clip21_sgd2m": (sgd2m_message, sgd2m_step),
    "norm_ec": (norm_ec_message, norm_ec_step),
}


def norm(v: np.ndarray) -> float:
    return float(np.sqrt((v**2).sum()))


def fedprox(r: Rank, g: np.ndarray, eta: float, c: float, mu: float) -> np.ndarray:
    return r.x - r.lr * r.direction(g + mu * (r.x - r.x_round))


def delta_gclip(r: Rank, g: np.ndarray, eta: float, c: float, delta: float) -> np.ndarray:
    return r.x - r.lr * min(1, max(delta, c / (1e-10 + norm(g)))) * (g + r.wd * r.x)


def normalized_sgd(r: Rank, g: np.ndarray, eta: float, c: float) -> np.ndarray:
    r.m = r.momentum * r.m + g
    return r.x - r.lr * (r.m + r.wd * r.x) / norm(r.m)


def mix_clip(r: Rank, g: np.ndarray, eta: float, c: float, beta: float, nu: float = 1.0) -> np.ndarray:
    g = g + r.wd * r.x
    r.m = beta * r.m + (1 - beta) * g
    gamma = c * eta
    of_m, of_g = nu / (1 + eta * norm(r.m) / gamma), (1 - nu) / (1 + eta * norm(g) / gamma)
    return r.x - r.lr * (of_m * r.m + of_g * g)


def corrected(r: Rank, g: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
    """u, and the weight decay that joins after its norm."""
    if r.momentum == 0:
        return g - r.c_i + r.c, r.wd * r.x
    r.m = r.momentum * r.m + g + r.wd * r.x
    return r.m - r.c_i + r.c, 0.0


def ian_sgd(
    r: Rank, g: np.ndarray, eta: float, c: float, beta: float, delta: float, floor: float, other: np.ndarray
) -> np.ndarray:
    return r.x - r.lr * (g + r.wd * r.x) / max(norm(other) + delta, floor) ** beta


def scaffold(r: Rank, g: np.ndarray, eta: float, c: float, option: str = "II") -> np.ndarray:
    u, decay = corrected(r, g)
    return r.x - r.lr * (u + decay)


def scaffold_clip(r: Rank, g: np.ndarray, eta: float, c: float) -> np.ndarray:
    u, decay = corrected(r, g)
    return r.x - r.lr * factor(u, eta, c * eta) * (u + decay)


def start_episode(world: list[Rank], fresh: list[np.ndarray], c: float) -> None:
    for r, gi in zip(world, fresh, strict=True):
        r.c_i, r.c = gi, sum(fresh) / len(world)
        r.clipped = norm(r.c) > c


def episode(r: Rank, g: np.ndarray, eta: float, c: float) -> np.ndarray:
    u, decay = corrected(r, g)
    return r.x - r.lr * (c / norm(u) if r.clipped else 1.0) * (u + decay)


def end_round(name: str, world: list[Rank], option: str) -> None:
    """Control variates; all ranks take part in every round."""
    if name not in ("scaffold", "scaffold_clip"):
        return
    changes = []
    for r in world:
        k = len(r.g_round)
        new = r.c_i - r.c + (r.x_round - r.x) / (k * r.lr) if name == "scaffold" else sum(r.g_round) / k
        new = r.fresh if option == "I" else new
        changes.append(new - r.c_i)
        r.c_i = new
    for r in world:
        r.c = r.c + sum(changes) / len(world)


LOCAL_STEPS = {
    "ian_sgd": ian_sgd,
    "episode": episode,
    "scaffold": scaffold,
    "scaffold_clip": scaffold_clip,
    "fedprox": fedprox,
    "delta_gclip": delta_gclip,
    "normalized_sgd": normalized_sgd,
    "mix_clip": mix_clip,
    "mom_clip": mix_clip,
}


def factor(v: np.ndarray, eta: float, gamma: float) -> float:
    """min(eta, gamma / (1e-10 + ||v||)) / eta."""
    return min(eta, gamma / (1e-10 + float(np.sqrt((v**2).sum())))) / eta


def average(world: list[Rank], momentum_policy: str) -> None:
    mean = sum(r.x for r in world) / len(world)
    buffers = [r.buf for r in world]
    for r in world:
        r.x = mean.copy()
        if momentum_policy == "reset":
            r.buf = None
        elif momentum_policy == "average" and r.buf is not None:
            r.buf = sum(buffers) / len(world)
