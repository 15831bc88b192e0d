"""A bilevel job of one's own: the weight decay of a regression is trained above it."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Ridge:
    """An object that is no module: upper is a parameter, lower a module."""

    def __init__(self):
        self.upper, self.lower = nn.Parameter(torch.zeros(())), nn.Linear(4, 1)

    def upper_loss(self, batch):
        inputs, targets = batch
        return (self.lower(inputs) - targets).square().mean()

    def lower_loss(self, batch):
        inputs, targets = batch
        decay = torch.exp(self.upper) * self.lower.weight.square().sum()
        return (self.lower(inputs) - targets).square().mean() + decay

    def evaluate(self, batch):
        loss = self.upper_loss(batch)
        return {"loss": loss, "root": loss.sqrt()}


def build():
    return Ridge()


def incomplete():
    return nn.Linear(2, 2)


def loaders(rank, ranks):
    torch.manual_seed(rank)
    slope = torch.tensor([[1.0], [2.0], [-1.0], [0.0]])

    def of(samples, shuffle):
        inputs = torch.randn(samples, 4)
        return DataLoader(TensorDataset(inputs, inputs @ slope), batch_size=8, shuffle=shuffle)

    return {"upper": of(24, True), "lower": of(40, True), "test": of(16, False)}


def two_loaders(rank, ranks):
    return {"train": loaders(rank, ranks)["lower"], "valid": loaders(rank, ranks)["test"]}
