"""Follows x through a problem of a configuration, on ranks of any kind."""

import sys
from typing import Any

import numpy as np
import torch

import hvdclip
from hvdclip.comm import Communicator
from hvdclip.config import check
from hvdclip.models.point import Point
from hvdclip.problems import PROBLEMS
from hvdclip.simulation.stack import Stack

Job = tuple[dict[str, Any], dict[str, Any], int]  # algorithm, data, steps


def problem_of(data: dict[str, Any], ranks: int):
    settings = dict(data)
    return PROBLEMS[settings.pop("name")](ranks, **settings)


def follow(job: Job, comm: Communicator, seed: int = 1) -> np.ndarray:
    """This rank's x after each step, (steps, d); of stacked ranks all of theirs, (steps, ranks, d)."""
    algorithm, data, steps = job
    problem = problem_of(data, comm.size)
    stacked = isinstance(comm, Stack)
    mine = slice(None) if stacked else slice(comm.rank, comm.rank + 1)
    model = Point(problem.start.expand(1, comm.size if stacked else 1, -1))
    settings = dict(algorithm)
    optimizer = hvdclip.optimizer(settings.pop("name"), model, comm=comm, **settings)
    batch = -1

    def closure(again=False):
        nonlocal batch
        batch += not again
        draws = problem.draws(seed, batch)
        losses = problem.losses(model.x, mine, None if draws is None else draws[None, mine])
        (model.x.grad,) = torch.autograd.grad(losses.sum(), model.x)

    x = []
    for _ in range(steps):
        optimizer.step(closure)
        x.append(model.x.detach().clone().numpy()[0])
    return np.array(x) if stacked else np.array(x)[:, 0]


def config(job: Job, **train: Any):
    algorithm, data, steps = job
    return check({"algorithm": algorithm, "model": "point", "data": data, "train": {"steps": steps} | train})


if __name__ == "__main__":
    from known import JOBS

    from hvdclip.comm.environment import launched

    comm = launched()
    np.savez(f"{sys.argv[2]}/{comm.rank}.npz", *(follow(job, comm) for job in JOBS[sys.argv[1]]))
