"""Prove that Horovod averages across real ranks: sums rank + 1 over the world and checks the sum by its formula."""

import sys

import horovod.torch as hvd
import torch

hvd.init()
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0]), op=hvd.Sum).item()
expected = hvd.size() * (hvd.size() + 1) / 2
if total != expected:
    sys.exit(f"rank {hvd.rank()}: {hvd.size()} ranks summed to {total}, not {expected}")
if hvd.rank() == 0:
    print(f"{hvd.size()} ranks summed to {total:g}, as they should", flush=True)
hvd.shutdown()
