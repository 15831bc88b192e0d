"""Prove that Horovod averages across real ranks: sums rank + 1 over the world and checks the sum by its formula.

With the argument cuda each rank sums on a GPU of its own, else on the CPU.
"""

import sys

import horovod.torch as hvd
import torch

hvd.init()
kind = sys.argv[1] if len(sys.argv) > 1 else "cpu"
device = torch.device(kind, hvd.local_rank() if kind == "cuda" else 0)
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0], device=device), op=hvd.Sum).item()
expected = hvd.size() * (hvd.size() + 1) / 2
if total != expected:
    sys.exit(f"rank {hvd.rank()}: {hvd.size()} ranks summed to {total} on {device}, not {expected}")
if hvd.rank() == 0:
    print(f"{hvd.size()} ranks summed to {total:g} on {kind}, as they should", flush=True)
hvd.shutdown()
