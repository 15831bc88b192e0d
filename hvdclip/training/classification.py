"""Classification of labelled samples that are shared out over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdclip.config import Shards
from hvdclip.data import Samples
from hvdclip.data.partition import label_counts, share_out
from hvdclip.training import randomness
from hvdclip.training.loading import Draw, read
from hvdclip.training.task import Batch, Evaluation, Task

EVALUATED_AT_ONCE = 1000, 2**24  # samples, and numbers in them, at most
BEST = 5
IN_A_TABLE = 100  # the largest number of classes in the table


class Classification(Task):
    """Every rank passes over its own shard in a new random order each epoch, as many batches as the smallest shard has.

    With more than five classes an evaluation also counts how often the right one is among the five likeliest.
    ValueError if a shard has less than one batch.
    """

    def __init__(
        self,
        data: Mapping[str, Samples],
        shards: Shards,
        seed: int,
        rank: int,
        ranks: int,
        device: torch.device,
        label_smoothing: float = 0.0,
    ):
        self.data, self.settings, self.seed, self.label_smoothing = data, shards, seed, label_smoothing
        self.rank, self.ranks, self.device = rank, ranks, device
        labels = data["train"].labels.numpy()
        rule = (shards.partition, shards.similarity, shards.alpha, shards.partition_seed)
        everyone = share_out(labels, ranks, *rule)
        self.shard, self._table = everyone[rank], label_counts(labels, everyone)
        smallest = min(map(len, everyone))
        self._batches = smallest // shards.batch
        if self._batches == 0:
            raise ValueError(f"data.batch is {shards.batch}; allowed: up to {smallest}, the size of the smallest shard")
        self.metrics = ("accuracy", "top5_accuracy") if data["train"].classes > BEST else ("accuracy",)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, epoch, self.rank)).permutation(self.shard)
        size = self.settings.batch

        def draw(number: int) -> Draw:
            chosen = torch.from_numpy(order[number * size : (number + 1) * size])
            return chosen, randomness.seed_from(self.seed, epoch, self.rank, number)

        draws = map(draw, range(start, self._batches))
        for rows, labels in read(self.data["train"], draws, self.settings.workers, self.device):
            yield Batch(rows, labels, size)

    def epoch_steps(self, epoch: int) -> int:
        return self._batches

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(batch.inputs)
        loss = functional.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)
        return loss, loss.detach()

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        held_out = self.data[split]
        mine = torch.arange(len(held_out.labels))[self.rank :: self.ranks]
        samples, numbers = EVALUATED_AT_ONCE
        at_once = max(1, min(samples, numbers // math.prod(held_out.shape)))
        draws = ((chosen, None) for chosen in mine.split(at_once) if len(chosen))
        total, correct = 0.0, [0.0] * len(self.metrics)
        for rows, targets in read(held_out, draws, self.settings.workers, self.device):
            logits = model(rows)
            total += functional.cross_entropy(logits, targets, reduction="sum").item()
            for k, most in enumerate((1, BEST)[: len(self.metrics)]):
                likeliest = logits.topk(most, dim=1).indices
                correct[k] += (likeliest == targets[:, None]).sum().item()
        return Evaluation(len(mine), total, tuple(correct))

    def description(self) -> str:
        shape = " x ".join(map(str, self.data["train"].shape))
        return f"{len(self.data['train'].labels):,} labelled samples of {shape}"

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.data if split != "train")

    def shard_size(self) -> int:
        return len(self.shard)

    def table(self) -> list[list[int]] | None:
        return self._table if len(self._table[0]) <= IN_A_TABLE else None
