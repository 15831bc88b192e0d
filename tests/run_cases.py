"""Runs every case on the ranks of Horovod; rank r saves its trajectories as <folder>/<r>.npz."""

import sys

import horovod.torch as hvd
import numpy as np
from cases import cases, train

from hvdclip.comm import default

hvd.init()
comm = default()
trajectories = {name: train(comm, algorithm, settings) for name, algorithm, settings in cases()}
np.savez(f"{sys.argv[1]}/{comm.rank}.npz", **trajectories)
