"""A small training whose step is given to torch.compile, or not: both must come to the same.

As a script: trains in both ways on the ranks of the launch, and fails where they differ.
"""

from typing import Any

import torch
from torch import Tensor, nn

import hvdclip
from hvdclip.comm import Communicator

STEPS = 11  # no multiple of an interval, so that the last round is incomplete
DELAYED = {"overlap": "delayed"}
OUTER = {"outer": "nesterov", "outer_lr": 0.7}
AVERAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "delayed": DELAYED,
    "delayed by 1, outer": DELAYED | OUTER | {"delay": 1},
    "delayed, int8": DELAYED | {"compression": "int8"},
    "fp16": {"compression": "fp16"},
    "bf16": {"compression": "bf16"},
    "topk": {"compression": "topk", "top_share": 0.2},
    "warm-up by gradients": {"warmup": "gradients", "warmup_steps": 4},
    "warm-up by averages": {"warmup_steps": 4},
    "nodes": {"interval": 4, "node_interval": 2},
    "outer sgd": {"outer": "sgd", "outer_lr": 0.7},
    "outer adam": {"outer": "adam", "outer_lr": 0.01},
    "growing": {"interval": {0: 1, 3: 2, 7: 3}},
    "momentum reset": {"momentum": 0.9, "momentum_policy": "reset"},
}


class Training:
    """A network and its optimizer; `closure` takes a batch of its own at every call, but for `again`."""

    def __init__(self, comm: Communicator, algorithm: str, settings: dict[str, Any]):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        self.optimizer = hvdclip.optimizer(algorithm, self.model, comm=comm, **settings)
        self.batches = torch.Generator().manual_seed(comm.rank)

    def batch(self) -> Tensor:
        return torch.randn(5, 4, generator=self.batches)

    def loss(self, batch: Tensor) -> Tensor:
        return (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()

    def closure(self, again: bool = False) -> Tensor:
        self.last = self.last if again else self.batch()
        self.optimizer.zero_grad()
        loss = self.loss(self.last)
        loss.backward()
        return loss

    @property
    def x(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def with_zero_grad(training: Training, batch: Tensor) -> None:
    training.optimizer.zero_grad()
    loss = training.loss(batch)
    loss.backward()
    training.optimizer.record(loss=loss.detach(), samples=len(batch))
    training.optimizer.step()


def without_zero_grad(training: Training, batch: Tensor) -> None:
    training.loss(batch).backward()
    training.optimizer.step()


def with_closure(training: Training, batch: Tensor) -> None:
    loss = training.optimizer.step(training.closure)
    training.optimizer.record(samples=0 if loss is None else len(batch))


def with_everything(training: Training, batch: Tensor) -> Any:
    with_zero_grad(training, batch)
    optimizer = training.optimizer
    with optimizer.averaged():
        mean = training.model(batch)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.requests()
    if optimizer.steps == 5:
        optimizer.synchronize()
    return mean.detach(), optimizer.last_round.get("loss"), optimizer.rounds


def train(comm: Communicator, algorithm: str, settings: dict[str, Any], step: Any, backend: Any = None) -> list[Any]:
    """What a training comes to, step by step; a backend compiles its steps and the last call of synchronize."""
    torch.compiler.reset()  # else the ninth training of one process would not be compiled any more
    training, clears = Training(comm, algorithm, {"lr": 0.1} | settings), step is without_zero_grad
    optimizer, came_to = training.optimizer, []
    synchronize = optimizer.synchronize
    if backend is not None:
        step, synchronize = (torch.compile(called, backend=backend) for called in (step, synchronize))
    for _ in range(STEPS):
        given = step(training, training.batch())
        came_to += [given, training.x, optimizer.rounds, untimed(optimizer.last_round)]
        if clears:
            optimizer.zero_grad()
    synchronize()
    return [*came_to, training.x, optimizer.rounds, untimed(optimizer.last_round), optimizer.steps]


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith("_s") and name != "slowest"}


def equal(one: Any, other: Any) -> bool:
    """To the bit; not-a-number is like itself."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or (one != one and other != other)


if __name__ == "__main__":
    comm = hvdclip.comm.launched()
    for name in ("momentum reset", "delayed by 1, outer", "topk", "growing"):
        arguments = (comm, "celgc", {"gamma": 0.05, "interval": 3} | AVERAGES[name], with_everything)
        assert equal(train(*arguments), train(*arguments, backend="eager")), name
    print("the same")
