"""A model and data of one's own that take as long as PACE says, seconds a step, and do the same at every pace."""

import os
import time

import torch
from torch import nn

BATCHES = 40


class Paced:
    """Batches of a rank, each after a sleep."""

    def __init__(self, rank):
        draw = torch.Generator().manual_seed(rank)
        self.inputs, self.noise = torch.randn(2, BATCHES, 8, 6, generator=draw)

    def __len__(self):
        return BATCHES

    def __iter__(self):
        for inputs, noise in zip(self.inputs, self.noise, strict=True):
            time.sleep(float(os.environ.get("PACE", 0)))
            yield inputs, (inputs.sin() + noise / 10)[:, :1]


def loaders(rank, ranks):
    held_out = torch.randn(32, 6, generator=torch.Generator().manual_seed(1000))
    return {"train": Paced(rank), "valid": [(held_out, held_out.sin()[:, :1])]}


def build():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
