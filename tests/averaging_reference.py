"""How local methods average, in NumPy (float64): when, over whom, in how few bytes. Their steps are reference.py's.

The rules. At the end of a round of I steps the ranks hand over x_i. The mean is taken `delay` steps later (at once
without overlap): x_i += mean - what was handed over, or x_i = alpha x_i + (1 - alpha) mean. Compressed, x_i - common +
error_i is coded instead, where common is the last mean; error_i keeps what the code leaves out. A sum of shards is
coded a second time by the shard's owner, whose error keeps what that leaves out. Between two averages over all ranks,
those of one node average every I1 steps. In fragments all this is done with tensor r mod 2 of x only in round r (there
are two, see averaging_cases.py), each with a common x and an outer step of its own. Where ranks differ after the last
round, the plain mean of x ends the run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.linalg import norm
from reference import WITH_INTERVAL, Gradient, Job, Rank, Vector, outer_step, top

BLOCK = 1024
FRAGMENTS = {1: [slice(None)], 2: [slice(0, 60 * 40), slice(60 * 40, None)]}  # by their number
Draws = Callable[[tuple[int, ...]], np.ndarray]  # the next uniform numbers of a rank in a round, of that shape


class Run(NamedTuple):
    x: np.ndarray  # (steps + 1, ranks, d): after each step, and after the incomplete last round
    rounds: list[int]  # the steps after which rounds ended
    drift: list[float]  # of each round, mean over the ranks of ||x_i - mean||


def run(
    method: str,
    gradient: Gradient,
    x0: Vector,
    *,
    ranks: int,
    steps: int,
    settings: Mapping[str, Any],
    nodes: Sequence[Sequence[int]] = (),
    draws: Callable[[int, int], Draws] | None = None,
) -> Run:
    """`nodes` are the ranks of each; `draws(rank, round)` are those of int8 and int4."""
    job = Job(gradient, np.full(x0.shape, settings["lr"]), settings, [Rank(i, x0) for i in range(ranks)], Rank(-1, x0))
    wire, step, since, rows, rounds, drift = Wire(job, draws), WITH_INTERVAL[method].step, 0, [], [], []
    delayed, inner = job.get("overlap") == "delayed", job.get("node_interval", 0)

    def send() -> None:
        nonlocal since
        wire.send()
        rounds.append(job.t + 1)
        drift.append(np.mean([norm(x - wire.mean) for x in wire.sent]))
        since = 0

    for job.t in range(steps):
        interval = interval_at(settings, job.t - since)
        together = job.get("warmup") == "gradients" and job.t < settings["warmup_steps"]
        job.gradient = mean_gradient(gradient, job) if together else gradient
        for r in job.ranks:
            step(job, r)
        if together:  # all x are equal, so there is nothing to average
            wire.begin(job.ranks[0].x)
            rounds.append(job.t + 1)
            drift.append(0.0)
            rows.append([r.x for r in job.ranks])
            continue
        since += 1
        if wire.under_way and since == delay_of(settings, interval):
            wire.take()
        if inner and since % inner == 0 and (since < interval or delayed or "fragments" in settings):
            for node in nodes:
                here = [job.ranks[i] for i in node]
                mean = job.mean([r.x for r in here], here)
                for r in here:
                    r.x = mean
        if since == interval:
            send()
            if delay_of(settings, interval_at(settings, job.t + 1)) == 0:
                wire.take()
        rows.append([r.x for r in job.ranks])
    if wire.under_way:
        wire.take()
    if since:
        send()
        wire.take()
    if len(wire.parts) > 1 or "merge_alpha" in settings:
        job.broadcast(job.mean([r.x for r in job.ranks]))
    return Run(np.array([*rows, [r.x for r in job.ranks]]), rounds, drift)


def interval_at(settings: Mapping[str, Any], t: int) -> int:
    """I of a round that starts after t steps."""
    given = settings.get("interval", 1)
    starts = given if isinstance(given, dict) else {0: given}
    return 1 if t < settings.get("warmup_steps", 0) else starts[max(start for start in starts if start <= t)]


def delay_of(settings: Mapping[str, Any], interval: int) -> int:
    """The step of a round of that many steps after which the mean of the round before is taken."""
    return min(settings.get("delay", interval - 1), interval - 1) if settings.get("overlap") == "delayed" else 0


def mean_gradient(gradient: Gradient, job: Job) -> Gradient:
    """Warm-up by gradients: what every rank steps from, at the x that is common then."""
    return lambda rank, batch, x: job.mean([gradient(r.index, batch, x) for r in job.ranks])


class Wire:
    """From the ranks' x to their mean, and from that to the common x."""

    def __init__(self, job: Job, draws: Callable[[int, int], Draws] | None):
        self.job, self.draws, self.under_way, self.number = job, draws, False, 0
        self.parts = FRAGMENTS[job.get("fragments", 1)]
        self.servers = [Rank(-1, job.server.x[part]) for part in self.parts]
        self.errors = [np.zeros_like(job.server.x) for _ in job.ranks]
        weights = job.get("weights", [1.0] * len(job.ranks))
        self.weights = [w * len(weights) / sum(weights) for w in weights]

    def begin(self, x: Vector) -> None:
        """A round of the warm-up by gradients has ended, with this x on all ranks."""
        for server, part in zip(self.servers, self.parts, strict=True):
            server.x = x[part]
        self.number += 1

    def send(self) -> None:
        turn = self.number % len(self.parts)
        self.part, self.job.server = self.parts[turn], self.servers[turn]
        self.sent = [r.x[self.part] for r in self.job.ranks]
        coded = self.job.get("compression", "none") != "none"
        self.mean = self.job.server.x + self.mean_way() if coded else self.job.mean(self.sent)
        self.under_way, self.number = True, self.number + 1

    def take(self) -> None:
        """x_i keeps the steps that it has done since it was sent, or a share alpha of itself."""
        job, alpha = self.job, self.job.get("merge_alpha")
        job.server.x = outer_step(job, self.mean)
        for r, sent in zip(job.ranks, self.sent, strict=True):
            r.x = r.x.copy()
            mine = r.x[self.part]
            r.x[self.part] = (
                job.server.x + (mine - sent) if alpha is None else alpha * mine + (1 - alpha) * job.server.x
            )
            if job.get("momentum_policy") == "reset":
                r.buf = None
        self.under_way = False

    def mean_way(self) -> Vector:
        """The mean over the ranks of x_i - common, as far as the code says it."""
        job, n, size = self.job, len(self.job.ranks), self.job.server.x.size
        code = CODES.get(job.get("compression"))
        width = BLOCK * -(-size // (BLOCK * n)) if code else size
        draws = [self.draws(r.index, self.number) if self.draws else None for r in job.ranks]
        shares = []  # what the ranks send: the code of their weighted ways
        for i, (w, x) in enumerate(zip(self.weights, self.sent, strict=True)):
            whole = self.errors[i][self.part] + x - job.server.x
            if code:
                padded = np.pad(np.float32(w) * whole.astype(np.float32), (0, n * width - size))
                shares.append(code(padded, draws[i])[:size])
            else:
                shares.append(w * top(whole, max(1, round(job.get("top_share", 0.01) * size))))
            self.errors[i][self.part] = whole - shares[i] / w
        mean = np.mean(shares, axis=0)
        if code:
            shards = np.split(np.pad(mean, (0, n * width - size)), n)
            again = np.concatenate([code(shard, draw) for shard, draw in zip(shards, draws, strict=True)])[:size]
            for i in range(n):
                mine = slice(i * width, (i + 1) * width)
                self.errors[i][self.part][mine] += (mean - again)[mine] * n / self.weights[i]
            mean = again
        return mean


# What is left of a vector that is sent in few bytes


def fp16(v: Vector, draws: Draws | None) -> Vector:
    return v.astype(np.float32).clip(-65504, 65504).astype(np.float16).astype(float)


def bf16(v: Vector, draws: Draws | None) -> Vector:
    """The upper half of a float32's bits, rounded to the nearest, ties to even."""
    bits = v.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(float)


def integers(v: Vector, draws: Draws, largest: int, block: int) -> Vector:
    """Multiples of a 127th, say, of the block's largest entry, up or down as the draws say."""
    blocks = v.astype(np.float32).reshape(-1, block)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(largest)
    scaled = blocks / np.where(scales > 0, scales, np.float32(1))
    return (np.floor(scaled + draws(scaled.shape)).clip(-largest, largest) * scales).ravel().astype(float)


CODES = {
    "fp16": fp16,
    "bf16": bf16,
    "int8": partial(integers, largest=127, block=1024),
    "int4": partial(integers, largest=7, block=128),
}
