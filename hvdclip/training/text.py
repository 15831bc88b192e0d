"""What language modelling tasks have in common, however they read their text."""

from __future__ import annotations

import math

from hvdclip.data import Corpus
from hvdclip.training.task import Task


class TextTask(Task):
    """Samples are tokens of a corpus."""

    corpus: Corpus

    def derived(self, loss: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700))}

    def description(self) -> str:
        tokens, vocabulary = len(self.corpus.splits["train"]), self.corpus.vocabulary
        return f"{tokens:,} {self.corpus.unit}s of text, vocabulary {vocabulary:,}"

    def remark(self, loss: float) -> str:
        bits, guess = loss / math.log(2), math.log2(self.corpus.vocabulary)
        return f"{bits:.2f} bits/{self.corpus.unit} (uniform {guess:.2f})"

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.corpus.splits if split != "train")
