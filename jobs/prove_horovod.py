"""Prove that Horovod averages across real ranks: sums rank + 1 over the world and checks the sum by its formula.

The argument is cpu, or cuda for a GPU a rank.
"""

import sys

import horovod.torch as hvd
import torch

hvd.init()
device = torch.device("cuda", hvd.local_rank()) if sys.argv[1] == "cuda" else torch.device("cpu")
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0], device=device), op=hvd.Sum).item()
expected = hvd.size() * (hvd.size() + 1) / 2
if total != expected:
    sys.exit(f"rank {hvd.rank()}: {hvd.size()} ranks summed to {total} on {device}, not {expected}")
if hvd.rank() == 0:
    print(f"{hvd.size()} ranks summed to {total:g} on the {sys.argv[1]}, as they should", flush=True)
hvd.shutdown()
