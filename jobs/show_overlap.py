"""Shows in Horovod's own timeline that bucket_clip sends gradients while backward still computes others.

    HOROVOD_TIMELINE=timeline.json mpirun -np 2 python jobs/show_overlap.py

Each line is one bucket of the last step: when its all-reduce began and ended, in ms before backward() ended. The
timeline itself opens in chrome://tracing.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import horovod.torch as hvd
import torch
from torch import nn

import hvdclip

LAYERS, WIDTH, BATCH, STEPS = 6, 1024, 1024, 3


def train() -> None:
    torch.set_num_threads(1)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    optimizer = hvdclip.optimizer("bucket_clip", model, lr=0.1, max_norm=1.0, bucket_mb=1.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        hvd.allreduce(torch.zeros(1), name="backward has ended")
        optimizer.step()


def last_times(timeline: Path) -> dict[str, tuple[float, float]]:
    """When the last all-reduce of each tensor began and ended, in ms."""
    text = timeline.read_text().rstrip().rstrip(",").rstrip("]")
    events = [event for event in json.loads(text + "]") if event]
    names = {event["pid"]: event["args"].get("name") for event in events if event.get("name") == "process_name"}
    times: dict[str, tuple[float, float]] = {}
    begun: dict[int, float] = {}
    depth: dict[int, int] = {}
    for event in events:
        pid = event["pid"]
        if event["ph"] == "B":
            begun.setdefault(pid, event["ts"])
            depth[pid] = depth.get(pid, 0) + 1
        elif event["ph"] == "E":
            depth[pid] -= 1
            if depth[pid] == 0:
                times[names[pid]] = (begun.pop(pid) / 1000, event["ts"] / 1000)
    return times


if __name__ == "__main__":
    if "HOROVOD_TIMELINE" not in os.environ:
        sys.exit("set HOROVOD_TIMELINE to the file that Horovod is to write")
    hvd.init()
    rank = hvd.rank()
    train()
    time.sleep(1)  # Horovod writes its timeline with a delay
    hvd.shutdown()
    if rank == 0:
        times = last_times(Path(os.environ["HOROVOD_TIMELINE"]))
        end = times["allreduce.backward has ended"][0]
        print("bucket  all-reduce began  ended  (ms after backward ended)")
        for number in range(LAYERS):
            (name,) = [name for name in times if re.search(rf"\.bucket{number}(?!\d)", name)]
            began, ended = times[name]
            print(f"{number:>6}  {began - end:>16.1f} {ended - end:>6.1f}")
