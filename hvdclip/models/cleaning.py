"""Softmax regression on weighted samples, and above it the weights of the samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Cleaning(nn.Module):
    """x has a number for each train sample, whose weight is sigmoid(x_j); y is the regression's. All start at 0.

    Batches are (images, labels, places): places are the samples' numbers among all train samples.
    """

    def __init__(self, samples: int, features: int = 784, classes: int = 10):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(samples))
        self.regression = nn.Linear(features, classes)
        nn.init.zeros_(self.regression.weight)
        nn.init.zeros_(self.regression.bias)
        self.upper, self.lower = [self.x], self.regression

    def upper_loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss on clean samples, whose weights are 1."""
        images, labels, _ = batch
        return cross_entropy(self.regression(images), labels)

    def lower_loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The mean of the weighted losses."""
        images, labels, places = batch
        losses = cross_entropy(self.regression(images), labels, reduction="none")
        return (torch.sigmoid(self.x[places]) * losses).mean()

    def evaluate(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """The loss and the accuracy on a batch, with all weights 1."""
        images, labels, _ = batch
        outputs = self.regression(images)
        return {"loss": cross_entropy(outputs, labels), "accuracy": (outputs.argmax(dim=1) == labels).float().mean()}
