"""N ranks in one process: as rows of one tensor if the problem allows it, otherwise one after another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from hvdclip.comm import Communicator, simulate
from hvdclip.config import Config
from hvdclip.methods import METHODS, optimizer
from hvdclip.models.point import Point
from hvdclip.problems import PROBLEMS
from hvdclip.simulation.stack import Stack, stackable
from hvdclip.simulation.trace import Trace
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.known import mean_of_known
from hvdclip.training.loop import Trainer
from hvdclip.training.problem import EPOCH
from hvdclip.training.recorder import Recorder
from hvdclip.training.schedule import Schedule


def run(config: Config, ranks: int, seeds: int = 1, ranks_per_node: int | None = None) -> Trace:
    """Train on that many simulated ranks, with the seeds train.seed, train.seed + 1, ...; by default all on one node.

    Raises what the same training on real ranks raises.
    """
    return stacked(config, ranks, seeds) if vectorises(config) else one_by_one(config, ranks, seeds, ranks_per_node)


def vectorises(config: Config) -> bool:
    """Whether all ranks and seeds can be stepped at once."""
    settings = {key: value for key, value in config.algorithm.items() if key != "name"}
    chosen = METHODS[config.algorithm["name"]]
    train, raises = config.train, config.algorithm.get("on_nonfinite") != "skip"
    plain = train.steps is not None and not train.weighted and not train.nt_asgd and raises
    return plain and config.data["name"] in PROBLEMS and stackable(chosen, chosen.Settings(**settings))


def stacked(config: Config, ranks: int, seeds: int) -> Trace:
    data, settings, train = dict(config.data), dict(config.algorithm), config.train
    problem = PROBLEMS[data.pop("name")](ranks, **data)
    model = Point(problem.start.expand(seeds, ranks, -1))
    method = optimizer(settings.pop("name"), model, comm=Stack(ranks), **settings)
    schedule = Schedule(method, train)
    batch = -1

    def closure(again: bool = False) -> None:
        nonlocal batch
        batch += not again
        drawn = [problem.draws(train.seed + k, batch) for k in range(seeds)]
        draws = torch.stack([d for d in drawn if d is not None]) if drawn[0] is not None else None
        losses = problem.losses(model.x, slice(None), draws)
        (model.x.grad,) = torch.autograd.grad(losses.sum(), model.x)

    assert train.steps is not None
    every = train.evaluate_every_steps or config.interval or 1
    collected, clipped, drifts, due = _Collected(), [], [], False
    for step in range(1, train.steps + 1):
        schedule.set(step - 1, (batch + 1) / EPOCH)
        method.step(closure)
        if step == train.steps:
            method.synchronize()
        due |= step % every == 0
        if method.steps_in_round == 0:
            metrics = method.last_round
            clipped.append(metrics["clip_fraction"])
            drifts.append(metrics["drift"])
            if due or step == train.steps:
                x = model.x.detach().mean(dim=-2)
                collected.add(step, method.rounds, problem.value(x).numpy(), problem.gradient_norm(x).numpy())
                due = False
    return collected.trace(config, ranks, clipped, drifts, method.comm.ledger["round"].bytes, method.gamma)


def one_by_one(config: Config, ranks: int, seeds: int, ranks_per_node: int | None = None) -> Trace:
    """The train command itself, once per seed, on ranks that take turns."""
    memories = []
    for seed in range(config.train.seed, config.train.seed + seeds):
        seeded = dataclasses.replace(
            config,
            train=config.train.model_copy(update={"seed": seed}),
            log=config.log.model_copy(update={"every_steps": 1}),
        )

        def one(comm: Communicator, seeded: Config = seeded) -> Memory:
            memory = Memory()
            trainer = Trainer(Job(seeded, comm))
            trainer.train(memory, Silent())
            memory.bytes, memory.gamma = comm.ledger["round"].bytes, trainer.optimizer.gamma
            return memory

        memories.append(simulate(one, ranks, ranks_per_node)[0])
    first, collected = memories[0], _Collected()
    rounds = {line["step"]: line["round"] for line in first.lines}
    for rows in zip(*(memory.rows for memory in memories), strict=True):
        step = rows[0]["step"]
        norms = [row.get("gradient_norm", np.nan) for row in rows]
        collected.add(step, rounds.get(step, 0), np.array([row["loss"] for row in rows]), np.array(norms))
    clipped = [line["clip_fraction"] for memory in memories for line in memory.lines]
    together = zip(*(memory.lines for memory in memories), strict=True)
    drifts = [mean_of_known([line["drift"] for line in lines]) for lines in together]
    return collected.trace(config, ranks, clipped, drifts, first.bytes, first.gamma)


class Memory(Recorder):
    """Keeps what a run would write."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.gamma: float | None = None

    def metrics(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def evaluation(self, row: dict[str, Any]) -> None:
        if not self.rows or row["split"] == self.rows[0]["split"]:
            self.rows.append(row)


class _Collected:
    """Collects evaluations for a trace."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rounds: list[int] = []
        self.values: list[np.ndarray] = []
        self.norms: list[np.ndarray] = []

    def add(self, step: int, rounds: int, values: np.ndarray, norms: np.ndarray) -> None:
        self.steps.append(step)
        self.rounds.append(rounds)
        self.values.append(values)
        self.norms.append(norms)

    def trace(
        self,
        config: Config,
        ranks: int,
        clipped: list[float],
        drifts: list[float | None],
        payload: int,
        gamma: float | None,
    ) -> Trace:
        known = [drift for drift in drifts if drift is not None]
        return Trace(
            ranks=ranks,
            interval=config.interval,
            steps=np.array(self.steps),
            rounds=np.array(self.rounds),
            values=np.stack(self.values, axis=1),
            gradient_norms=np.stack(self.norms, axis=1),
            clip_fraction=float(np.mean(clipped)),
            drift=max(known) if known and "interval" in config.algorithm else None,
            bound=2 * gamma * config.interval if gamma and config.interval else None,
            bytes=payload,
        )
