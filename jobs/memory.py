"""Measures the peak memory of a rank, by method and by way to average, and prints what `hvdclip algorithms` claims.

    python jobs/memory.py [FLOATS] [CASE...]

Trains FLOATS floats (100 million by default) on two ranks of this machine (Linux), each case in new processes. Peaks
are in vectors of FLOATS floats and include x and its gradient.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

INTERVAL, ROUNDS, TENSORS = 4, 2, 20
# what a method needs besides lr, a threshold and an interval
NEEDED: dict[str, dict[str, Any]] = {
    "fedprox": {"mu": 0.1},
    "delta_gclip": {"delta": 0.1},
    "episode_pp": {"participants": 2},
    "ian_sgd": {"beta": 0.5, "delta": 1.0, "floor": 0.1},
    "norm_ec": {"alpha": 1.0, "beta": 0.5},
    "sketched": {"width": 1000, "server_lr": 0.1},
    "spider_clip": {"anchor_every": 4},
}
DELAYED = {"overlap": "delayed", "delay": 2}
OUTER = {"outer": "nesterov", "outer_lr": 0.7}
AVERAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "drift": {"drift": True},
    "outer step": OUTER,
    "delayed": DELAYED,
    "delayed, outer step": DELAYED | OUTER,
    "bf16": {"compression": "bf16"},
    "int8": {"compression": "int8"},
    "int4": {"compression": "int4"},
    "topk": {"compression": "topk"},
    "in 4 parts": {"averaging": "fragments", "fragments": 4},
    "in 4 parts, delayed, outer step": {"averaging": "fragments", "fragments": 4} | DELAYED | OUTER,
}


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    from hvdclip.engine import Bilevel
    from hvdclip.methods import METHODS

    methods = [name for name, method in METHODS.items() if not issubclass(method, Bilevel)]
    by_method = {name: (name, NEEDED.get(name, {})) for name in methods}
    return by_method | {f"celgc, {name}": ("celgc", settings) for name, settings in AVERAGES.items()}


def peaks(case: str, floats: int) -> tuple[float, float]:
    """The peaks of the optimizer's start and of training, in vectors of that many floats, on this rank."""
    import horovod.torch as hvd
    import torch

    import hvdclip
    from hvdclip.methods import METHODS

    hvd.init()
    hvd.allreduce(torch.zeros(1000), name="first")
    name, settings = cases()[case]
    general = {"lr": 1e-3, "gamma": 1e-3, "tau": 1e-3, "interval": INTERVAL, "drift": False}
    chosen = {key: value for key, value in general.items() if key in METHODS[name].Settings.model_fields} | settings
    before = _status("VmRSS")
    model = torch.nn.ParameterList(torch.full((floats // TENSORS,), 0.5) for _ in range(TENSORS))
    _reset_peak()
    optimizer = hvdclip.optimizer(name, model, **chosen)
    start = _status("VmHWM")
    _reset_peak()

    def closure(again: bool = False) -> torch.Tensor:
        for p in model:
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.fill_(1e-4)
        return torch.zeros(())

    for _ in range(INTERVAL * ROUNDS):
        optimizer.step(closure)
    optimizer.synchronize()
    return tuple((peak - before) / (4 * floats) for peak in (start, _status("VmHWM")))


def _status(key: str) -> int:
    """Bytes of this process by the kernel's name."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def table(floats: int, chosen: list[str]) -> None:
    from hvdclip.methods import METHODS

    print("case | claimed peak besides x and its gradient | peak at the start | peak in training")
    print("--- | --- | --- | ---")
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpirun = ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-np", "2"]
    for case in chosen or cases():
        done = subprocess.run(
            [*mpirun, sys.executable, __file__, str(floats), "--rank", case], capture_output=True, text=True
        )
        found = [json.loads(line) for line in re.findall(r"^PEAKS (.*)$", done.stdout, re.MULTILINE)]
        start, training = map(max, zip(*found, strict=True)) if done.returncode == 0 else (float("nan"),) * 2
        claim = METHODS[case].peak if case in METHODS else ""
        print(f"{case} | {claim} | {start:.2f} | {training:.2f}", flush=True)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)


if __name__ == "__main__":
    floats = int(float(sys.argv[1])) if len(sys.argv) > 1 else 100_000_000
    if sys.argv[2:3] == ["--rank"]:
        print("PEAKS", json.dumps(peaks(sys.argv[3], floats)), flush=True)
    else:
        table(floats, sys.argv[2:])
