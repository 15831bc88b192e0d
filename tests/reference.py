"""Plain NumPy versions of the distributed methods, written from their specification alone, to compare the package with.

All ranks are simulated one after the other in float64. A method is at most three functions: `start` opens a round,
`step` is what one rank does in one step, `end` closes the round (average, server's step or mixing). The methods that
send gradients have rounds of one step (minibatch_clip: `interval` steps), in which the rank only takes its gradient.

Notation: r is a rank, x its point, g its gradient, c = gamma/eta the threshold on a norm, lr the step size of every
entry of x, wd the weight decay. No array that a rank keeps is ever changed in place, so ranks may share one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.linalg import norm

Vector = np.ndarray
Gradient = Callable[[int, int, Vector], Vector]


class Rank:
    """What one rank keeps; every vector starts at 0. The server is a Rank without data: its x is x_round."""

    def __init__(self, index: int, x: Vector) -> None:
        self.index = index
        self.x = x
        self.batches = 0  # batches read so far, which is the number of the next one
        self.taken: list[Vector] = []  # the fresh gradients of this round
        self.buf: Vector | None = None  # momentum; None before the first step and after a reset
        self.x_last = x  # spider_clip: where v was last updated
        zero = np.zeros_like(x)
        self.m = self.v = self.v_max = self.u = self.h = zero
        self.G = zero  # episode, episode_pp
        self.c = self.c_next = zero  # scaffold's control and the one that replaces it at the end of the round
        self.inner = self.square = 0.0  # sgdol's two sums
        self.count = 0  # Adam's number of updates

    @property
    def g(self) -> Vector:
        """Mean of the gradients really taken in this round."""
        return np.mean(self.taken, axis=0)


@dataclass
class Job:
    """One run: its inputs, the ranks, and the number t of the step and k of the round under way."""

    gradient: Gradient
    lr: Vector
    settings: Mapping[str, Any]
    ranks: list[Rank]
    server: Rank
    sketch: Callable[[int], tuple[Vector, Vector]] | None = None
    noise: Callable[[int, int], Vector] | None = None
    t: int = 0
    k: int = 0
    drawn: list[Rank] = field(default_factory=list)  # the ranks that take part in this round

    def __post_init__(self) -> None:
        self.wd: float = self.get("weight_decay", 0.0)
        self.momentum: float = self.get("momentum", 0.0)
        self.interval: int = self.get("interval", 1)
        self.c: float = self.get("max_norm", self.get("gamma", inf) / self.settings["lr"])

    def get(self, key: str, default: Any = None) -> Any:
        """A setting; None is as good as absent."""
        value = self.settings.get(key)
        return default if value is None else value

    def fresh(self, r: Rank) -> Vector:
        """The rank's gradient at its x on its next batch."""
        g = np.array(self.gradient(r.index, r.batches, r.x), dtype=np.float64)
        r.batches += 1
        r.taken.append(g)
        return g

    def mean(self, vectors: Sequence[Vector], ranks: Sequence[Rank] | None = None) -> Vector:
        """Weighted mean of one vector a rank, over all ranks unless told."""
        weights = self.get("weights", [1.0] * len(self.ranks))
        return np.average(vectors, axis=0, weights=[weights[r.index] for r in ranks or self.ranks])

    def move(self, r: Rank, d: Vector) -> None:
        r.x = r.x - self.lr * d

    def broadcast(self, x: Vector) -> None:
        """Every rank and the server continue from x."""
        for r in [*self.ranks, self.server]:
            r.x = x

    def move_all(self, d: Vector) -> None:
        self.broadcast(self.server.x - self.lr * d)

    def noisy(self, messages: Sequence[Vector]) -> list[Vector]:
        """The messages, in the order of the ranks, with their noise if there is one."""
        return [m + self.noise(i, self.t) if self.noise else m for i, m in enumerate(messages)]


# Building blocks


def factor(v: Vector, c: float) -> float:
    """Clip factor of a step."""
    return min(1.0, c / (1e-10 + norm(v)))


def clip(v: Vector, c: float) -> Vector:
    """Clipped message; nothing added to the norm."""
    return v if norm(v) <= c else (c / norm(v)) * v


def inverse(length: float) -> float:
    """1/length, and 0 for 0: a normalised step with zero norm does nothing."""
    return 1 / length if length > 0 else 0.0


def heavy_ball(r: Rank, d: Vector, momentum: float, dampening: float = 0.0, nesterov: bool = False) -> Vector:
    """torch.optim.SGD's direction."""
    if momentum == 0:
        return d
    r.buf = d if r.buf is None else momentum * r.buf + (1 - dampening) * d
    return d + momentum * r.buf if nesterov else r.buf


def adam(r: Rank, g: Vector, beta1: float, beta2: float, eps: float) -> Vector:
    """Adam's direction, bias-corrected."""
    r.count += 1
    r.m = beta1 * r.m + (1 - beta1) * g
    r.v = beta2 * r.v + (1 - beta2) * g**2
    return r.m / (1 - beta1**r.count) / (np.sqrt(r.v / (1 - beta2**r.count)) + eps)


def sgd_direction(job: Job, r: Rank, g: Vector) -> Vector:
    """The direction d of the SGD family, from g at r's x."""
    return heavy_ball(r, g + job.wd * r.x, job.momentum, job.get("dampening", 0.0), job.get("nesterov", False))


def clipped_direction(job: Job, r: Rank, g: Vector) -> Vector:
    d = sgd_direction(job, r, g)
    return factor(d if job.get("norm_of") == "update" else g, job.c) * d


def corrected_direction(job: Job, r: Rank, g: Vector, correction: Vector) -> tuple[Vector, Vector]:
    """u, whose norm is taken, and the direction of the step; the correction is not accumulated in the momentum."""
    if job.momentum:
        u = heavy_ball(r, g + job.wd * r.x, job.momentum) + correction
        return u, u
    u = g + correction
    return u, u + job.wd * r.x


# How a round of a local method ends


def outer_step(job: Job, x_mean: Vector) -> Vector:
    """The next common point; x_round - mean x is the outer optimizer's gradient."""
    outer, server = job.get("outer", "none"), job.server
    if outer == "none":
        return x_mean
    d = server.x - x_mean
    if outer == "adam":
        d = adam(server, d, job.get("outer_beta1", 0.9), job.get("outer_beta2", 0.99), 1e-8)
    else:
        d = heavy_ball(server, d, job.get("outer_momentum", 0.0), nesterov=outer == "nesterov")
    return server.x - job.settings["outer_lr"] * d


def average(job: Job) -> None:
    policy = job.get("momentum_policy", "keep")
    if policy != "keep" and job.momentum:
        buf = job.mean([r.buf for r in job.drawn], job.drawn) if policy == "average" else None
        for r in job.drawn:
            r.buf = buf
    job.broadcast(outer_step(job, job.mean([r.x for r in job.drawn], job.drawn)))


# 1. Local methods: the step of one rank, and what the rounds of some add to the average


def local_sgd(job: Job, r: Rank) -> None:
    job.move(r, sgd_direction(job, r, job.fresh(r)))


def celgc(job: Job, r: Rank) -> None:
    job.move(r, clipped_direction(job, r, job.fresh(r)))


def fedprox(job: Job, r: Rank) -> None:
    g = job.fresh(r) + job.settings["mu"] * (r.x - job.server.x)
    job.move(r, sgd_direction(job, r, g))


def scaffold_start(job: Job) -> None:
    if job.get("option", "II") == "I":
        for r in job.ranks:
            r.c_next = job.fresh(r)


def scaffold(job: Job, r: Rank) -> None:
    _, d = corrected_direction(job, r, job.fresh(r), job.server.c - r.c)
    job.move(r, d)


def scaffold_end(job: Job) -> None:
    if job.get("option", "II") == "II":
        for r in job.ranks:
            r.c_next = r.c - job.server.c + (job.server.x - r.x) / (len(r.taken) * job.lr)
    exchange_controls(job)


def scaffold_clip(job: Job, r: Rank) -> None:
    u, d = corrected_direction(job, r, job.fresh(r), job.server.c - r.c)
    job.move(r, factor(u, job.c) * d)


def scaffold_clip_end(job: Job) -> None:
    for r in job.ranks:
        r.c_next = r.g
    exchange_controls(job)


def exchange_controls(job: Job) -> None:
    job.server.c = job.server.c + job.mean([r.c_next - r.c for r in job.ranks])
    for r in job.ranks:
        r.c = r.c_next
    average(job)


def episode_start(job: Job) -> None:
    for r in job.ranks:
        r.G = job.fresh(r)
    job.server.G = job.mean([r.G for r in job.ranks])


def episode(job: Job, r: Rank) -> None:
    """Every step of the round is normalised, or none: ||G|| decides."""
    u, d = corrected_direction(job, r, job.fresh(r), job.server.G - r.G)
    s = 1.0 if norm(job.server.G) <= job.c else job.c * inverse(norm(u))
    job.move(r, s * d)


def episode_pp_start(job: Job) -> None:
    """Before the first round only: every G_i from `interval` gradients at x_0, also of the ranks not drawn."""
    if job.k == 0:
        for r in job.ranks:
            r.G = np.mean([job.fresh(r) for _ in range(job.interval)], axis=0)
        job.server.G = job.mean([r.G for r in job.ranks])


def episode_pp_end(job: Job) -> None:
    """A rank that was not drawn has taken no gradient, keeps its G_i and so adds 0 to the mean."""
    new = [r.g if r in job.drawn else r.G for r in job.ranks]
    job.server.G = job.server.G + job.mean([G - r.G for G, r in zip(new, job.ranks, strict=True)])
    for G, r in zip(new, job.ranks, strict=True):
        r.G = G
    average(job)


def delta_gclip(job: Job, r: Rank) -> None:
    g = job.fresh(r)
    s = min(1.0, max(job.settings["delta"], job.c / norm(g))) if norm(g) > 0 else 0.0
    job.move(r, s * (g + job.wd * r.x))


def mix_clip(job: Job, r: Rank, nu: float | None = None) -> None:
    """nu = 1: mom_clip."""
    beta, nu = job.get("beta", 0.9), job.get("nu", 0.7) if nu is None else nu
    g = job.fresh(r) + job.wd * r.x
    r.m = beta * r.m + (1 - beta) * g
    job.move(r, nu / (1 + norm(r.m) / job.c) * r.m + (1 - nu) / (1 + norm(g) / job.c) * g)


def normalized_sgd(job: Job, r: Rank) -> None:
    m = heavy_ball(r, job.fresh(r), job.momentum)
    job.move(r, inverse(norm(m)) * (m + job.wd * r.x))


def ian_sgd(job: Job, r: Rank) -> None:
    ss = job.settings
    g, g_other = job.fresh(r), job.fresh(r)
    h = max(job.get("a", 1.0) * norm(g_other) + ss["delta"], ss["floor"])
    job.move(r, (g + job.wd * r.x) / h ** ss["beta"])


def sgdol(job: Job, r: Rank) -> None:
    M, alpha = job.get("M", 10.0), job.get("alpha", 10.0)
    g, g_other = job.fresh(r), job.fresh(r)
    eta = (alpha + r.inner) / (M * (alpha + r.square))
    job.move(r, min(max(eta, 0.0), 2 / M) * (g + job.wd * r.x))
    r.inner += g @ g_other
    r.square += g @ g


def adam_prox(job: Job, r: Rank) -> None:
    d = adam(r, job.fresh(r), job.get("beta1", 0.9), job.get("beta2", 0.999), job.get("eps", 1e-8))
    r.x = (r.x - job.lr * d) / (1 + job.wd)


def spider_clip(job: Job, r: Rank) -> None:
    ss = job.settings
    if job.t % ss["anchor_every"] == 0:
        r.v = np.mean([job.fresh(r) for _ in range(ss["anchor_batches"])], axis=0)
    else:
        g = job.fresh(r)
        r.v = r.v + g - job.gradient(r.index, r.batches - 1, r.x_last)
    r.x_last = r.x
    job.move(r, factor(r.v, job.c) * (r.v + job.wd * r.x))


def sketched_end(job: Job) -> None:
    """The local steps are celgc's; only a count sketch of how far they went is averaged, then AMSGrad acts."""
    ss, server = job.settings, job.server
    beta1, beta2, eps = job.get("server_beta1", 0.9), job.get("server_beta2", 0.99), job.get("server_eps", 1e-8)
    bucket, sign = job.sketch(job.k)
    S = job.mean([np.bincount(bucket, sign * (server.x - r.x), ss["width"]) for r in job.ranks])
    d = sign * S[bucket]
    server.m = beta1 * server.m + (1 - beta1) * d
    server.v = beta2 * server.v + (1 - beta2) * d**2
    server.v_max = np.maximum(server.v_max, server.v)
    job.broadcast(server.x - ss["server_lr"] * server.m / (np.sqrt(server.v_max) + eps))


# 2. Gradient methods: the ranks share x, the server moves it by the gradients they have just taken


def minibatch_sgd(job: Job) -> None:
    job.move_all(sgd_direction(job, job.server, job.mean([r.g for r in job.ranks])))


def naive_parallel_clip(job: Job) -> None:
    """Also minibatch_clip, whose rounds are longer."""
    job.move_all(clipped_direction(job, job.server, job.mean([r.g for r in job.ranks])))


def clip_then_average(job: Job) -> None:
    """`update`: every rank clips its own direction; else weight decay and momentum act on the mean."""
    if job.get("norm_of") == "update":
        d = job.mean([clip(sgd_direction(job, r, r.g), job.c) for r in job.ranks])
    else:
        d = sgd_direction(job, job.server, job.mean([clip(r.g, job.c) for r in job.ranks]))
    job.move_all(d)


def bucket_clip(job: Job) -> None:
    g = np.zeros_like(job.server.x)
    for bucket in job.settings["buckets"]:
        c = job.c * sqrt(g[bucket].size / g.size)
        g[bucket] = job.mean([clip(r.g[bucket], c) for r in job.ranks])
    job.move_all(sgd_direction(job, job.server, g))


def clip21(job: Job) -> None:
    server = job.server
    m = [clip(r.g - r.v, job.settings["tau"]) for r in job.ranks]
    for r, m_i in zip(job.ranks, m, strict=True):
        r.v = r.v + m_i
    server.v = server.v + job.mean(m)
    job.move_all(server.v + job.wd * server.x)


def clip21_sgd2m(job: Job) -> None:
    b1, b2, server = job.get("b1", 0.9), job.get("b2", 0.9), job.server
    for r in job.ranks:
        r.u = (1 - b1) * r.u + b1 * r.g
    m = [clip(r.u - r.h, job.settings["tau"]) for r in job.ranks]
    for r, m_i in zip(job.ranks, m, strict=True):
        r.h = r.h + b2 * m_i
    server.h = server.h + b2 * job.mean(job.noisy(m))
    job.move_all(server.h + job.wd * server.x)


def norm_ec(job: Job) -> None:
    alpha, beta, server = job.settings["alpha"], job.settings["beta"], job.server
    m = [inverse(alpha + norm(r.g - r.v)) * (r.g - r.v) for r in job.ranks]
    for r, m_i in zip(job.ranks, m, strict=True):
        r.v = r.v + beta * m_i
    server.v = server.v + beta * job.mean(job.noisy(m))
    if job.get("server", True):
        normalised_move(job, server.v)
    else:
        job.move_all(server.v + job.wd * server.x)


def normalised_move(job: Job, v: Vector) -> None:
    if norm(v) > 0:
        job.move_all(v / norm(v) + job.wd * job.server.x)


def top(v: Vector, k: int | None) -> Vector:
    """The k entries of largest absolute value, the others 0; all entries without a k."""
    kept = np.zeros_like(v)
    largest = np.argsort(-np.abs(v), kind="stable")[:k]
    kept[largest] = v[largest]
    return kept


def ef21_norm(job: Job) -> None:
    b, server = job.get("b", 0.9), job.server
    for r in job.ranks:
        r.u = r.g if job.t == 0 else (1 - b) * r.u + b * r.g
    m = [top(r.u - r.h, job.get("k")) for r in job.ranks]
    for r, m_i in zip(job.ranks, m, strict=True):
        r.h = r.h + m_i
    server.h = server.h + job.mean(m)
    normalised_move(job, server.h)


def decentralized_clip(job: Job, r: Rank) -> None:
    """r.x is the mixed v_i before this step, and x_i after it."""
    ss, k = job.settings, job.t
    tau = ss["tau"] * (k + 1) ** ss["tau_growth"]
    g = job.fresh(r)
    s = min(1.0, tau * inverse(norm(g))) if norm(g) > 0 else 1.0
    job.move(r, s * (g + job.wd * r.x) / (k + 1) ** ss["lr_decay"])
    if "radius" in ss:
        r.x = r.x * min(1.0, ss["radius"] / norm(r.x))


def mix(job: Job) -> None:
    """A_ij = 1/3 on a ring; the sets make it 1/2 with two ranks and 1 with one."""
    x, n = [r.x for r in job.ranks], len(job.ranks)
    for i, r in enumerate(job.ranks):
        r.x = np.mean([x[j] for j in {(i - 1) % n, i, (i + 1) % n}], axis=0)


# The methods and the loop


class Method(NamedTuple):
    step: Callable[[Job, Rank], Any]
    end: Callable[[Job], None] = average
    start: Callable[[Job], None] = lambda job: None


LOCAL = (local_sgd, celgc, fedprox, delta_gclip, mix_clip, normalized_sgd, ian_sgd, sgdol, adam_prox, spider_clip)
GRADIENT_SENT = (minibatch_sgd, naive_parallel_clip, clip_then_average, bucket_clip)
ERROR_FEEDBACK = (clip21, clip21_sgd2m, norm_ec, ef21_norm)

WITH_INTERVAL = {f.__name__: Method(f) for f in LOCAL} | {
    "mom_clip": Method(partial(mix_clip, nu=1.0)),
    "scaffold": Method(scaffold, scaffold_end, scaffold_start),
    "scaffold_clip": Method(scaffold_clip, scaffold_clip_end),
    "episode": Method(episode, start=episode_start),
    "episode_pp": Method(episode, episode_pp_end, episode_pp_start),
    "sketched": Method(celgc, sketched_end),
    "minibatch_clip": Method(Job.fresh, naive_parallel_clip),
}
EVERY_STEP = {f.__name__: Method(Job.fresh, f) for f in (*GRADIENT_SENT, *ERROR_FEEDBACK)} | {
    "decentralized_clip": Method(decentralized_clip, mix)
}


def run(
    name: str,
    gradient: Gradient,
    x0: Vector,
    *,
    ranks: int,
    steps: int,
    lr: Vector,
    settings: Mapping[str, Any],
    participants: Callable[[int], Sequence[int]] | None = None,
    sketch: Callable[[int], tuple[Vector, Vector]] | None = None,
    noise: Callable[[int, int], Vector] | None = None,
) -> Vector:
    """x of every rank after every step, and in the last row after the last, incomplete round has been completed."""
    x0, lr = np.array(x0, dtype=np.float64), np.asarray(lr, dtype=np.float64)
    job = Job(gradient, lr, settings, [Rank(i, x0) for i in range(ranks)], Rank(-1, x0), sketch, noise)
    method = (WITH_INTERVAL | EVERY_STEP)[name]
    interval = job.interval if name in WITH_INTERVAL else 1
    rows = []
    for job.t in range(steps):
        if job.t % interval == 0:
            job.drawn = [job.ranks[i] for i in participants(job.k)] if participants else job.ranks
            method.start(job)
            for r in job.ranks:
                r.taken = []
        for r in job.drawn:
            method.step(job, r)
        if (job.t + 1) % interval == 0:
            method.end(job)
            job.k += 1
        rows.append([r.x for r in job.ranks])
    if steps % interval:
        method.end(job)
    elif name == "decentralized_clip":
        average(job)
    return np.array([*rows, [r.x for r in job.ranks]])
