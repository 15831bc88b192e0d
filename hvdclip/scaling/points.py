"""How fast a configuration trains on these ranks, for several I, and where the time goes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import torch

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

REAL, SYNTHETIC = "real", "synthetic"
Result = TypeVar("Result")


class Point(NamedTuple):
    """What is trained: with an average every I steps, on the data as they come, or on one batch again and again."""

    interval: int
    data: str

    def __str__(self) -> str:
        return f"I = {self.interval}, {self.data} data"


class Clocked:
    """A trainer whose parts of steps are timed; on a GPU each part waits for its end."""

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
        """The seconds of so many steps, in all and by part, and those of this rank's own work in each round."""
        ledger, work = self.trainer.comm.ledger["round"], []
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        communicated, began, sent = ledger.seconds, time.perf_counter(), ledger.bytes
        mark, waited = began, communicated
        for step in range(1, steps + 1):
            self.trainer.step()
            if step % self.point.interval == 0:
                _finish_gpu()
                now = time.perf_counter()
                work.append(now - mark - (ledger.seconds - waited))
                mark, waited = now, ledger.seconds
        total, communicated = time.perf_counter() - began, ledger.seconds - communicated
        local = total - communicated - sum(self.seconds.values())
        parts = self.seconds | {"step": local, "communication": communicated}
        return {"total": total, "parts": parts, "work": work, "bytes": ledger.bytes - sent}

    def _timed(self, part: str, function: Callable[..., Result]) -> Callable[..., Result]:
        def timed(*arguments: Any) -> Result:
            start = time.perf_counter()
            result = function(*arguments)
            _finish_gpu()
            self.seconds[part] += time.perf_counter() - start
            return result

        return timed


def measure(
    config: Config, intervals: Sequence[int], synthetic: bool, comm: Communicator, steps: int, blocks: int
) -> list[dict[str, Any]]:
    """For each point, and each block after one that is thrown away, what every rank has measured."""
    sources = (REAL, SYNTHETIC) if synthetic else (REAL,)
    clocked = [_clocked(config, Point(interval, data), comm) for data in sources for interval in intervals]
    found: dict[Point, list[Any]] = {each.point: [] for each in clocked}
    for block in range(-1, blocks):
        start = max(block, 0) % len(clocked)
        for each in (*clocked[start:], *clocked[:start]):
            comm.average_([torch.zeros(1)], "bench")  # a barrier
            rounds = max(1, steps // each.point.interval)
            of_ranks = comm.gather(each.block(rounds * each.point.interval), "bench")
            if block >= 0:
                found[each.point].append(of_ranks)
    trainers = {each.point: each.trainer for each in clocked}
    size = clocked[0].trainer.optimizer.space.size
    return [
        {"parameters": size} | _summary(point, rows, trainers[point].batch.samples, comm.size)
        for point, rows in found.items()
    ]


def _clocked(config: Config, point: Point, comm: Communicator) -> Clocked:
    chosen = dataclasses.replace(config, algorithm=config.algorithm | {"interval": point.interval})
    return Clocked(Trainer(Job(chosen, comm)), point)


def _summary(point: Point, blocks: Sequence[Sequence[dict[str, Any]]], samples: int, ranks: int) -> dict[str, Any]:
    """In seconds of a step, a list over the blocks each; waiting is what a rank waits for the slowest one."""
    steps = [len(rows[0]["work"]) * point.interval for rows in blocks]
    times = [max(row["total"] for row in rows) / n for rows, n in zip(blocks, steps, strict=True)]
    parts: dict[str, list[float]] = {"data": [], "gradient": [], "step": [], "communication": [], "waiting": []}
    work = []
    for rows, n in zip(blocks, steps, strict=True):
        rounds = list(zip(*(row["work"] for row in rows), strict=True))
        waiting = sum(max(own) - sum(own) / ranks for own in rounds) / n
        means = {part: sum(row["parts"][part] for row in rows) / ranks / n for part in rows[0]["parts"]}
        means["communication"] = max(0.0, means["communication"] - waiting)
        for part, seconds in (means | {"waiting": waiting}).items():
            parts[part].append(seconds)
        work.append([sum(row["work"]) / n for row in rows])
    return {
        "interval": point.interval,
        "data": point.data,
        "samples": samples,
        "seconds": times,
        "parts": parts,
        "work": work,
        "bytes": blocks[-1][0]["bytes"] / steps[-1],
    }


def _finish_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
