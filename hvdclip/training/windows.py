"""Language modelling for models without a state, such as transformers: windows at random places (as nanoGPT)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hvdclip import data
from hvdclip.config import Windows
from hvdclip.data import Corpus
from hvdclip.training.task import Batch, Evaluation
from hvdclip.training.text import TextTask


class WindowedText(TextTask):
    """A batch depends on the seed, the epoch, its number and the rank only, so there is no state to save.

    An epoch has as many batches as a rank's part of the text has windows for, at least one. The model is called as
    `model(tokens)`, tokens (batch, window); it returns logits (batch, window, vocabulary), or an object that has them
    as `logits`, as Hugging Face's do. ValueError if a rank's part of the text is shorter than a window.
    """

    def __init__(self, corpus: Corpus, windows: Windows, seed: int, rank: int, ranks: int, device: torch.device):
        assert windows.window is not None, "the configuration has been checked"
        self.corpus, self.settings, self.window, self.seed = corpus, windows, windows.window, seed
        self.rank, self.ranks, self.device = rank, ranks, device
        self.text = data.shard(corpus.splits["train"], rank, ranks, self.window)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for number in range(start, self.epoch_steps(epoch)):
            key = self.seed, epoch, number, self.rank
            inputs, targets = self._read(self.text, data.starts(len(self.text), self.window, self.settings.batch, key))
            yield Batch(inputs, targets, targets.numel())

    def epoch_steps(self, epoch: int) -> int:
        return max(1, len(self.text) // (self.settings.batch * self.window))

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = functional.cross_entropy(_logits(model(batch.inputs)), batch.targets.flatten())
        return loss, loss.detach()

    def evaluate(self, model: Any, split: str) -> Evaluation:
        text, most = self.corpus.splits[split], self.settings.evaluation_windows
        mine = data.even_starts(len(text), self.window, most)[self.rank :: self.ranks]
        total, count = 0.0, 0
        for first in range(0, len(mine), self.settings.batch):
            inputs, targets = self._read(text, mine[first : first + self.settings.batch])
            total += functional.cross_entropy(_logits(model(inputs)), targets.flatten(), reduction="sum").item()
            count += targets.numel()
        return Evaluation(count, total)

    def shard_size(self) -> int:
        return len(self.text)

    def _read(self, text: Tensor, starts: list[int]) -> tuple[Tensor, Tensor]:
        inputs, targets = data.windows_at(text, starts, self.window)
        for ids in (inputs, targets):
            data.check_ids(ids, self.corpus.vocabulary, "the text")
        return inputs.to(self.device), targets.to(self.device)


def _logits(output: Any) -> Tensor:
    """One row per token."""
    logits = output if isinstance(output, Tensor) else output.logits
    return logits.flatten(0, 1)
