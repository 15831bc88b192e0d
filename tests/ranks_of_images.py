"""Trains every job of images for two real steps on these ranks; prints what each has come to, as JSON.

mpirun -np 2 python tests/ranks_of_images.py FOLDER     (of MNIST's files)
"""

import json
import sys

import torch

from hvdclip.comm.environment import launched
from hvdclip.config import check
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.training.provenance import sha256

MODELS = {"resnet56": {"name": "resnet", "depth": 56}, "resnet50": "resnet50"}
POLICIES = ("average", "keep", "broadcast", "synchronised")


def train(comm, model, data, policy):
    together = policy == "synchronised"
    algorithm = {"name": "celgc", "lr": 0.05, "gamma": 0.5, "interval": 2, "weight_decay_on": "weights"}
    algorithm |= {"weight_decay": 5e-4, "buffer_policy": "average" if together else policy}
    config = {
        "algorithm": algorithm,
        "model": MODELS[model],
        "data": {"batch": 4, **data},
        "train": {"steps": 2, "sync_batch_norm": together},
    }
    trainer, memory = Trainer(Job(check(config), comm)), Memory()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train(memory, Silent())
    moved = sum((p - q).abs().sum().item() for p, q in zip(trainer.model.parameters(), before, strict=True))
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "loss": memory.lines[0]["loss"],
        "moved": moved,
        "weights": sha256(torch.nn.ParameterList(trainer.model.parameters())),
        "buffers": [buffer.double().sum().item() for buffer in trainer.model.buffers()],
    }


def main():
    comm = launched()
    sources = {
        "synthetic": {"name": "synthetic", "samples": 64, "test_samples": 4, "side": 32, "classes": 10},
        "digits": {"name": "mnist", "root": sys.argv[1], "rgb": True},
    }
    found = {
        f"{model} {source} {policy}": comm.gather(train(comm, model, data, policy))
        for model in MODELS
        for source, data in sources.items()
        for policy in POLICIES
    }
    if comm.rank == 0:
        print(json.dumps(found))


main()
