"""Language modelling as the papers do it: truncated back-propagation over text in columns.

Merity, Keskar, Socher, ICLR 2018 (random lengths, step size scaled by the length); Liu et al., NeurIPS 2022 (the
columns' blocks rotate over the ranks by epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hvdclip import data
from hvdclip.config import Columns
from hvdclip.data import Corpus
from hvdclip.models import detach
from hvdclip.training.task import Batch, Evaluation
from hvdclip.training.text import TextTask


class LanguageModelling(TextTask):
    """For models with a state that continues from window to window."""

    def __init__(self, corpus: Corpus, columns: Columns, seed: int, rank: int, ranks: int, device: torch.device):
        self.corpus, self.settings, self.seed = corpus, columns, seed
        self.rank, self.ranks, self.device = rank, ranks, device
        self._last: Batch | None = None
        self._state: Any = None
        self.columns = data.cut(corpus.splits["train"], columns.batch * ranks)
        # a fixed number of columns, split over the ranks, so that an evaluation does not depend on the number of ranks
        self.held_out = {split: data.cut(corpus.splits[split], columns.evaluation_columns) for split in self.splits()}

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self._last = None
        if start == 0:
            self._state = None
        lengths = self._lengths(epoch)
        text = data.block(self.columns, self.rank, self.ranks, epoch)[sum(lengths[:start]) :].to(self.device)
        for tokens, targets in data.windows(text, lengths[start:]):
            yield Batch(tokens, targets, tokens.numel(), scale=len(tokens) / self.settings.bptt)

    def epoch_steps(self, epoch: int) -> int:
        return len(self._lengths(epoch))

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        # the same batch again starts from the same state; the text continues from the first pass
        again = batch is self._last
        if not again:
            self._last, self._before = batch, self._state or model.initial_state(batch.inputs.shape[1])
        logits, state, penalty = model(batch.inputs, detach(self._before))
        if not again:
            self._state = state
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        return loss + penalty, loss.detach()

    def evaluate(self, model: Any, split: str) -> Evaluation:
        mine = self.held_out[split][:, self.rank :: self.ranks].to(self.device)
        if mine.shape[1] == 0:
            return Evaluation(0, 0.0)
        state, total, count = model.initial_state(mine.shape[1]), 0.0, 0
        for tokens, targets in data.windows(mine, data.even_lengths(len(mine), self.settings.bptt)):
            logits, state, _ = model(tokens, state)
            total += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            count += targets.numel()
        return Evaluation(count, total)

    def _lengths(self, epoch: int) -> list[int]:
        return data.sequence_lengths(len(self.columns), self.settings.bptt, self.seed, epoch)

    def shard_size(self) -> int:
        return len(self.columns) * self.settings.batch

    def state_dict(self) -> dict[str, Any]:
        """The model's hidden state."""
        return {} if self._state is None else {"hidden": detach(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = _to(state["hidden"], self.device) if "hidden" in state else None


def _to(state: Any, device: torch.device) -> Any:
    return state.to(device) if isinstance(state, Tensor) else tuple(_to(part, device) for part in state)
