"""Time to a validation perplexity: CELGC, and clipped averages of gradients at every step by hvdclip and by Horovod.

    mpirun -np 2 python jobs/time_to_perplexity.py run LINK FILE.json [KEY=VALUE...]
    python jobs/time_to_perplexity.py plot FOLDER FILE.json...

`run` trains the language model of configs/quickstart.yaml, made larger, three times from one start on the same text,
and writes the perplexity of a tenth of the validation text, from fifty places of it, with the seconds of training,
without evaluations. LINK is the name of the ranks' link in the picture. jobs/time_to_perplexity.sh runs it over
emulated links.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from torch.nn.utils import clip_grad_norm_

from hvdclip.comm import Communicator, default
from hvdclip.config import Config, load
from hvdclip.report.look import COLOURS, dress, save
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.evaluation import evaluate
from hvdclip.training.job import Job
from hvdclip.training.language_model import LanguageModelling
from hvdclip.training.loop import Trainer

PROJECT = Path(__file__).resolve().parent.parent
# 2.7 M floats, and few tokens a step: a step and an average over 1gbit then take about equally long on two slow cores
SIZE = ["model.hidden=768", "data.batch=8", "data.bptt=32", "train.steps=320", "train.evaluate_every_steps=32"]
CELGC, NAIVE, HOROVOD = "celgc, I = 16", "naive_parallel_clip", "Horovod's DistributedOptimizer + clip"

# of the rows of held-out text; a complete evaluation takes as long as 200 steps
EVALUATED = 0.1

Curve = dict[str, list[float]]


def run(link: str, file: Path, overrides: list[str]) -> None:
    hvd.init()
    comm = default()
    if any(not override.startswith(("train.", "data.", "model.")) for override in overrides):
        sys.exit("only settings of train, data and model hold for all three")
    celgc = load(PROJECT / "configs" / "quickstart.yaml", [*SIZE, "algorithm.interval=16", *overrides])
    naive = load(
        PROJECT / "configs" / "quickstart.yaml",
        [*SIZE, "algorithm.name=naive_parallel_clip", "algorithm.interval=null", *overrides],
    )
    curves = {CELGC: by_hvdclip(celgc, comm), HOROVOD: by_horovod(celgc, comm), NAIVE: by_hvdclip(naive, comm)}
    if comm.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"link": link, "ranks": comm.size, "curves": curves}, indent=1) + "\n")
        print(times_to_target(link, curves))


def job_of(config: Config, comm: Communicator) -> Job:
    job = Job(config, comm)
    assert isinstance(job.task, LanguageModelling)
    for split, rows in job.task.held_out.items():
        job.task.held_out[split] = rows[: int(EVALUATED * len(rows))]
    return job


def by_hvdclip(config: Config, comm: Communicator) -> Curve:
    memory = Memory()
    Trainer(job_of(config, comm)).train(memory, Silent())
    steps = [line["step"] for line in memory.lines]
    seconds = np.cumsum([line["round_s"] for line in memory.lines])
    rows = {row["step"]: row["perplexity"] for row in memory.rows}
    return {
        "step": list(rows),
        "seconds": np.interp(list(rows), [0, *steps], [0, *seconds]).tolist(),
        "perplexity": list(rows.values()),
    }


def by_horovod(config: Config, comm: Communicator) -> Curve:
    """Horovod's documented way to clip the averaged gradient."""
    job, train = job_of(config, comm), config.train
    lr, gamma = config.algorithm["lr"], config.algorithm["gamma"]
    sgd = torch.optim.SGD(job.model.parameters(), lr)
    distributed = hvd.DistributedOptimizer(sgd, named_parameters=job.model.named_parameters())
    assert train.steps is not None and train.evaluate_every_steps is not None
    batches = (batch for epoch in itertools.count() for batch in job.task.batches(epoch))
    curve: Curve = {"step": [], "seconds": [], "perplexity": []}
    seconds, start = 0.0, time.perf_counter()
    for step, batch in enumerate(itertools.islice(batches, train.steps), start=1):
        distributed.zero_grad()
        objective, _ = job.task.loss(job.model, batch)
        objective.backward()
        distributed.synchronize()
        clip_grad_norm_(job.model.parameters(), gamma / lr)
        sgd.param_groups[0]["lr"] = lr * batch.scale
        with distributed.skip_synchronize():
            distributed.step()
        if step % train.evaluate_every_steps == 0:
            seconds += time.perf_counter() - start
            row = evaluate(job.task, job.model, "valid", comm)
            for key, value in (("step", step), ("seconds", seconds), ("perplexity", row["perplexity"])):
                curve[key].append(value)
            start = time.perf_counter()
    return curve


def reached(curve: Curve, target: float) -> float | None:
    """The seconds at which the perplexity first is at most the target, interpolated between two evaluations."""
    least = np.minimum.accumulate(curve["perplexity"])
    if least[-1] > target:
        return None
    return float(np.interp(-np.log(target), -np.log(least), curve["seconds"]))


def common_target(curves: dict[str, Curve]) -> float:
    """A perplexity that all methods reach."""
    return 1.01 * max(min(curve["perplexity"]) for curve in curves.values())


def times_to_target(link: str, curves: dict[str, Curve]) -> str:
    target = common_target(curves)
    times = {name: reached(curve, target) for name, curve in curves.items()}
    lines = [f"{link}, validation perplexity {target:.3f}:"]
    lines += [f"  {name:<40} {t:8.1f} s   {t / times[CELGC]:.2f} x celgc's" for name, t in times.items()]  # type: ignore[operator]
    return "\n".join(lines)


def plot(folder: Path, files: list[Path]) -> None:
    runs: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files]
    figure, axes = plt.subplots(1, len(runs), figsize=(5.5 * len(runs), 4.2), layout="constrained", squeeze=False)
    for axis, found in zip(axes[0], runs, strict=True):
        target = common_target(found["curves"])
        for colour, (name, curve) in zip(COLOURS, found["curves"].items(), strict=False):
            axis.plot(curve["seconds"], curve["perplexity"], marker="o", markersize=3, color=colour, label=name)
        axis.axhline(target, color="grey", linewidth=1, linestyle=":")
        axis.set(xlabel="seconds of training", ylabel="validation perplexity", yscale="log", title=found["link"])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 8)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        print(times_to_target(found["link"], found["curves"]))
    axes[0][0].legend(frameon=False)
    dress(figure)
    for picture in save(figure, folder, "time_to_perplexity"):
        print(f"picture: {picture}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) > 3:
        run(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    elif sys.argv[1:2] == ["plot"] and len(sys.argv) > 3:
        plot(Path(sys.argv[2]), [Path(file) for file in sys.argv[3:]])
    else:
        sys.exit(__doc__)
