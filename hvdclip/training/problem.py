"""A problem as a job: samples are gradients, the metric is ||grad f|| at the averaged point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hvdclip.problems import Problem
from hvdclip.training.task import Batch, Evaluation, Task

EPOCH = 1000  # batches per rank; a problem's data never ends


class ProblemTask(Task):
    """One rank's part of a problem; its one split is the exact objective."""

    metrics = ("gradient_norm",)

    def __init__(self, problem: Problem, seed: int, rank: int):
        self.problem, self.seed, self.rank = problem, seed, rank

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in range(epoch * EPOCH + start, (epoch + 1) * EPOCH):
            draws = self.problem.draws(self.seed, batch)
            yield Batch(None if draws is None else draws[self.rank : self.rank + 1], None, 1)

    def epoch_steps(self, epoch: int) -> int:
        return EPOCH

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.problem.losses(model.x[None], slice(self.rank, self.rank + 1), batch.inputs)[0]
        return loss, loss.detach()

    def evaluate(self, model: Any, split: str) -> Evaluation:
        x = model.x.detach()
        return Evaluation(1, self.problem.value(x).item(), (self.problem.gradient_norm(x).item(),))

    def description(self) -> str:
        least = "" if self.problem.minimum is None else f", least value {self.problem.minimum:.6g}"
        d = len(self.problem.start)
        return f"a function of {d} number{'s' * (d > 1)}{least}"

    def remark(self, loss: float) -> str:
        return "" if self.problem.minimum is None else f"gap {loss - self.problem.minimum:.4g}"

    def splits(self) -> tuple[str, ...]:
        return ("exact",)

    def shard_size(self) -> int:
        return self.problem.shard_size(self.rank)

    def table(self) -> list[list[int]] | None:
        return self.problem.table()
