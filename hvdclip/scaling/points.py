"""How fast a configuration trains on these ranks, for several I, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from hvdclip.bench.blocks import wait_for_gpu
from hvdclip.bench.traffic import bytes_sent
from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.scaling.study import REAL, SYNTHETIC
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

Result = TypeVar("Result")


class Point(NamedTuple):
    """What is trained: with an average every I steps, on the real data, or on one batch again and again."""

    interval: int
    data: str


class Clocked:
    """A trainer whose parts of steps are timed; on a GPU each part waits for the GPU."""

    def __init__(self, trainer: Trainer, point: Point):
        self.trainer, self.point = trainer, point
        self.seconds = dict.fromkeys(("data", "gradient"), 0.0)
        take = trainer.stream.take
        if point.data == SYNTHETIC:
            take = partial(next, repeat(take()))
        trainer.stream.take = self._timed("data", take)  # type: ignore[method-assign]
        trainer._backward = self._timed("gradient", trainer._backward)  # type: ignore[method-assign]
        trainer.model.train()

    def block(self, steps: int) -> dict[str, Any]:
        """Train so many steps; returns samples, bytes and seconds, total and by part, and each rank's work per round.

        `bytes` is what this rank has sent to collectives, `sent` what its host has sent over the network (one rank per
        host).
        """
        ledger, statistics = self.trainer.comm.ledger["round"], self.trainer.optimizer.statistics
        work, samples = [], 0
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        statistics.pace.restart()
        handed, sent = ledger.bytes, bytes_sent()
        began, communicated = time.perf_counter(), ledger.seconds
        for step in range(1, steps + 1):
            self.trainer.step()
            samples += self.trainer.batch.samples
            if step % self.point.interval == 0:
                work.append(statistics.worked)
        wait_for_gpu()
        total, communicated = time.perf_counter() - began, ledger.seconds - communicated
        parts = self.seconds | {"communication": communicated}
        parts["step"] = total - sum(parts.values())
        work = work if self.trainer.comm.rank == 0 else []  # it is the same on all ranks
        found = {"total": total, "parts": parts, "work": work, "samples": samples}
        of_host = bytes_sent() - sent if self.trainer.comm.local_rank == 0 else 0
        return found | {"bytes": ledger.bytes - handed, "sent": of_host}

    def _timed(self, part: str, function: Callable[..., Result]) -> Callable[..., Result]:
        def timed(*arguments: Any) -> Result:
            start = time.perf_counter()
            result = function(*arguments)
            wait_for_gpu()
            self.seconds[part] += time.perf_counter() - start
            return result

        return timed


def prepare(configs: dict[int, Config], synthetic: bool, comm: Communicator) -> list[Clocked]:
    """A trainer for each I and kind of data; a refusal is the same on all ranks."""
    sources = (REAL, SYNTHETIC) if synthetic else (REAL,)
    return [
        Clocked(Trainer(Job(config, comm)), Point(interval, data))
        for data in sources
        for interval, config in configs.items()
    ]


def measure(clocked: Sequence[Clocked], comm: Communicator, steps: int, blocks: int) -> list[dict[str, Any]]:
    """For each trainer, and each block after one that is discarded, the measurements of all ranks."""
    found: dict[Point, list[Any]] = {each.point: [] for each in clocked}
    for block in range(-1, blocks):
        start = max(block, 0) % len(clocked)
        for each in (*clocked[start:], *clocked[:start]):
            comm.average_([torch.zeros(1)], "bench")  # a barrier
            rounds = max(1, steps // each.point.interval)
            of_ranks = comm.gather(each.block(rounds * each.point.interval), "bench")
            if block >= 0:
                found[each.point].append(of_ranks)
    return [_summary(point, rows) for point, rows in found.items()]


def _summary(point: Point, blocks: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """For a step, a list over the blocks each: samples of all ranks, and seconds; waiting is for the slowest rank."""
    found: dict[str, Any] = {"interval": point.interval, "data": point.data}
    found |= {key: [] for key in ("samples", "seconds", "work", "sent")}
    parts: dict[str, list[float]] = {}
    for rows in blocks:
        steps = len(rows[0]["work"]) * point.interval
        work = np.array(rows[0]["work"])  # of each round and rank, which the messages sent to all
        waiting = float((work.max(axis=1) - work.mean(axis=1)).sum()) / steps
        means = {part: sum(row["parts"][part] for row in rows) / len(rows) / steps for part in rows[0]["parts"]}
        means["communication"] = max(0.0, means["communication"] - waiting)
        for part, seconds in (means | {"waiting": waiting}).items():
            parts.setdefault(part, []).append(seconds)
        found["samples"].append(sum(row["samples"] for row in rows) / steps)
        found["seconds"].append(max(row["total"] for row in rows) / steps)
        found["work"].append((work.sum(axis=0) / steps).tolist())
        found["sent"].append(sum(row["sent"] for row in rows) / steps)
        found["bytes"] = rows[0]["bytes"] / steps
    return found | {"parts": parts}
