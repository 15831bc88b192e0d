"""Runs every case on the ranks of a backend; rank r saves its trajectories as <folder>/<r>.npz."""

import sys

import numpy as np
from cases import cases, train

folder, backend = sys.argv[1:]
if backend == "horovod":
    import horovod.torch as hvd

    from hvdclip.comm import default

    hvd.init()
    comm = default()
else:
    from hvdclip.comm.mpi import Mpi4py

    comm = Mpi4py()
trajectories = {name: train(comm, algorithm, settings) for name, algorithm, settings in cases()}
np.savez(f"{folder}/{comm.rank}.npz", **trajectories)
