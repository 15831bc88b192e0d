"""Classification of labelled rows that are shared out over the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdclip.config import Shards
from hvdclip.data.labelled import Labelled
from hvdclip.data.partition import label_counts, share_out
from hvdclip.training import randomness
from hvdclip.training.task import Batch, Evaluation


class Classification:
    """Every rank passes its own shard in a new random order each epoch, as many batches as the smallest shard has.

    ValueError if a shard has not one batch.
    """

    metric = "accuracy"

    def __init__(
        self, data: Mapping[str, Labelled], shards: Shards, seed: int, rank: int, ranks: int, device: torch.device
    ):
        self.data, self.settings, self.seed = data, shards, seed
        self.rank, self.ranks, self.device = rank, ranks, device
        labels = data["train"].labels.numpy()
        rule = (shards.partition, shards.similarity, shards.alpha, shards.partition_seed)
        everyone = share_out(labels, ranks, *rule)
        self.shard, self._table = everyone[rank], label_counts(labels, everyone)
        smallest = min(map(len, everyone))
        self._batches = smallest // shards.batch
        if self._batches == 0:
            raise ValueError(f"data.batch is {shards.batch}; allowed: up to {smallest}, the size of the smallest shard")

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, epoch, self.rank)).permutation(self.shard)
        train, size = self.data["train"], self.settings.batch
        for number in range(start, self._batches):
            chosen = torch.from_numpy(order[number * size : (number + 1) * size])
            rows = train.rows(chosen, randomness.seed_from(self.seed, epoch, self.rank, number))
            yield Batch(rows.to(self.device), train.labels[chosen].to(self.device), size)

    def epoch_steps(self, epoch: int) -> int:
        return self._batches

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = functional.cross_entropy(model(batch.inputs), batch.targets)
        return loss, loss.detach()

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        held_out = self.data[split]
        mine = torch.arange(self.rank, len(held_out.labels), self.ranks)
        total = correct = 0.0
        for chosen in mine.split(1000):
            logits, targets = model(held_out.rows(chosen).to(self.device)), held_out.labels[chosen].to(self.device)
            total += functional.cross_entropy(logits, targets, reduction="sum").item()
            correct += (logits.argmax(dim=1) == targets).sum().item()
        return Evaluation(total, correct, len(mine))

    def description(self) -> str:
        return f"{len(self.data['train'].labels):,} labelled rows"

    def remark(self, loss: float) -> str:
        return ""

    def splits(self) -> tuple[str, ...]:
        return ("test",)

    def shard_size(self) -> int:
        return len(self.shard)

    def table(self) -> list[list[int]]:
        return self._table

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
