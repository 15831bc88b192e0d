"""Trains every algorithm, as the command does, on the ranks of Horovod; rank 0 writes the evaluations as JSON."""

import json
import sys

from algorithms import ALGORITHMS
from test_simulation import config

from hvdclip.comm.environment import launched
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

comm = launched()
found = {}
for name in ALGORITHMS:
    memory = Memory()
    Trainer(Job(config(name), comm)).train(memory, Silent())
    found[name] = [(row["step"], row["loss"], row["gradient_norm"]) for row in memory.rows]
if comm.rank == 0:
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)
