"""Draws the figures of docs/family.md and docs/bilevel.md, each from its own simulations.

    python jobs/figures.py heterogeneity | clip21 | speed_up | bytes | digits | bilevel | cleaning

All but speed_up and bilevel read real data: HVDCLIP_DATA must name the folder with libsvm/ and MNIST/.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from hvdclip.comm import Communicator, SingleRank, simulate
from hvdclip.config import load
from hvdclip.methods import NonFiniteGradient
from hvdclip.report.look import COLOURS, dress, look, save
from hvdclip.simulation import run
from hvdclip.simulation.run import Memory
from hvdclip.simulation.trace import Trace, slope
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
LEAST_COSH = 5.10423852735  # the minimum of bilevel_cosh on four ranks, as in its configuration


def simulated(config: str, overrides: dict[str, Any], ranks: int, seeds: int) -> Trace:
    chosen = [f"{key}={value}" for key, value in overrides.items()]
    return run(load(PROJECT / "configs" / f"{config}.yaml", chosen), ranks, seeds)


def heterogeneity() -> None:
    """EPISODE compared with CELGC as the ranks' objectives grow apart: two quartics, and a9a divided by label."""
    figure, (quartic, logistic) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    levels = (0.5, 1, 2, 3, 4, 6, 8)
    for number, name in enumerate(("celgc", "episode")):
        ends = []
        for level in levels:
            trace = simulated("quartics", {"algorithm.name": name, "data.heterogeneity": float(level)}, 2, seeds=20)
            ends.append(trace.values[:, -100:].mean(axis=1) - least_quartic(level))
            print(f"quartics, H = {level}: {name} gap {ends[-1].mean():.4g} ± {ends[-1].std(ddof=1):.2g}")
        band(quartic, levels, ends, number, name)
    quartic.set(xlabel="heterogeneity H", ylabel="f - f*, last 100 of 500 rounds", yscale="log", xscale="log")
    quartic.set_xticks(levels, [f"{level:g}" for level in levels])
    shares = (1.0, 0.5, 0.2, 0.1, 0.05, 0.0)
    for number, name in enumerate(("celgc", "episode")):
        ends = []
        for share in shares:
            trace = simulated("a9a", {"algorithm.name": name, "data.similarity": share}, 10, seeds=5)
            ends.append(trace.gradient_norms[:, -20:].mean(axis=1))
            print(f"a9a, s = {share}: {name} ||grad f|| {ends[-1].mean():.4g} ± {ends[-1].std(ddof=1):.2g}")
        band(logistic, 1 - np.array(shares), ends, number, name)
    logistic.set(xlabel="1 - similarity s", ylabel="$||\\nabla f||$, last 20 evaluations", yscale="log")
    quartic.legend(frameon=False)
    finish(figure, "heterogeneity")


def least_quartic(level: float) -> float:
    from hvdclip.problems import PROBLEMS

    least = PROBLEMS["quartics"](2, heterogeneity=float(level)).minimum
    assert least is not None
    return least


def clip21() -> None:
    """Error feedback compared with plain clipping on mushrooms, ten ranks with shards in file order."""
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    rules: list[tuple[str, dict[str, Any]]] = [("GD, no clipping", {"algorithm": "{name: minibatch_sgd, lr: 0.35891}"})]
    for tau in (0.1, 0.01):
        rules.append(
            (
                f"clip_then_average, c = {tau}",
                {"algorithm": f"{{name: clip_then_average, lr: 0.35891, max_norm: {tau}}}"},
            )
        )
        rules.append((f"clip21, tau = {tau}", {"algorithm.tau": tau}))
    for number, (label, overrides) in enumerate(rules):
        trace = simulated("mushrooms", overrides | {"train.evaluate_every_steps": 1}, 10, seeds=1)
        axis.plot(trace.steps, trace.gradient_norms[0] ** 2, label=label, **look(number))
        print(f"{label}: ||grad f||^2 {trace.gradient_norms[0, -1] ** 2:.4e}, f {trace.values[0, -1]:.6f}")
    axis.set(xlabel="steps, one message each", ylabel="$||\\nabla f||^2$", yscale="log", xscale="log")
    axis.legend(frameon=False)
    finish(figure, "clip21")


def speed_up() -> None:
    """Linear speed-up of CELGC on noisy quadratics: lr and gamma grow with N, steps to a gradient norm fall with it."""
    figure, (curves, steps) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    target, everyone = 0.15, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    reached = []
    for number, ranks in enumerate(everyone):
        scaled = {"algorithm.lr": 4e-4 * ranks, "algorithm.gamma": 4e-3 * ranks}
        length = {"train.steps": max(400, 26000 // ranks // 4 * 4)}
        trace = simulated("quadratics", scaled | length, ranks, seeds=10)
        found = trace.reached(target)
        floor = trace.rms_norm()[-len(trace.steps) // 10 :].mean()
        print(f"N = {ranks}: steps to {target} {found and found[0]}, gradient norm at the end {floor:.3g}")
        if ranks in (1, 4, 16, 64, 256, 1024):
            curves.plot(trace.steps, trace.rms_norm(), label=f"N = {ranks}", **look(number // 2))
        if found:
            reached.append((ranks, found[0]))
    alone = simulated(
        "quadratics", {"algorithm.lr": 4e-4 * 64, "algorithm.gamma": 4e-3 * 64, "train.steps": 400}, 1, 10
    )
    print(f"one rank with the step size of 64: gradient norm at the end {alone.rms_norm()[-10:].mean():.3g}")
    curves.plot(alone.steps, alone.rms_norm(), color="black", linewidth=0.8, label="1 rank, lr of N = 64")
    curves.axhline(target, color="black", linewidth=0.8, linestyle=":")
    curves.set(xlabel="local steps", ylabel="$||\\nabla f(\\bar x)||$, rms over 10 seeds", xscale="log", yscale="log")
    curves.legend(frameon=False)
    up_to_64 = [(n, s) for n, s in reached if n <= 64]
    found_slope = slope(*map(list, zip(*up_to_64, strict=True)))
    print(f"slope of log steps over log N up to 64: {found_slope:.3f}")
    steps.plot(*zip(*reached, strict=True), "o-", color=COLOURS[0], label=f"slope {found_slope:.2f} up to N = 64")
    steps.plot(everyone, reached[0][1] / np.array(everyone), ":", color="black", label="slope -1")
    steps.set(xlabel="ranks N", ylabel=f"local steps to {target}", xscale="log", yscale="log")
    steps.legend(frameon=False)
    finish(figure, "speed_up")


# Step sizes: the best after 400 steps, seed 1, of 0.02, 0.05, 0.1, 0.2, 0.5, 1 (adam_prox: 3e-4, 1e-3, 3e-3, 1e-2;
# sgdol: 0.3, 1, 3, 10); the other settings were not tuned.
LOCAL: dict[str, str] = {
    "local_sgd": "lr: 0.2",
    "celgc": "lr: 0.5, max_norm: 1.0",
    "fedprox": "lr: 0.2, mu: 0.01",
    "scaffold": "lr: 0.1",
    "scaffold_clip": "lr: 0.2, max_norm: 1.0",
    "episode": "lr: 0.2, max_norm: 1.0",
    "episode_pp": "lr: 0.1, max_norm: 1.0, participants: 2",
    "delta_gclip": "lr: 0.5, max_norm: 1.0, delta: 0.5",
    "mix_clip": "lr: 1.0, max_norm: 1.0",
    "mom_clip": "lr: 0.5, max_norm: 1.0",
    "normalized_sgd": "lr: 0.5",
    "ian_sgd": "lr: 0.5, beta: 0.67, delta: 0.1, floor: 1.0",
    "sgdol": "lr: 3.0",
    "adam_prox": "lr: 0.003",
    "spider_clip": "lr: 0.05, max_norm: 1.0, anchor_every: 20, anchor_batches: 5",
    "sketched": "lr: 0.5, max_norm: 1.0, width: 10000, server_lr: 0.002",
}


def bytes_() -> None:
    """Loss against bytes of every local method: a perceptron on MNIST, four ranks, similarity 0.1, I = 8."""
    figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    for number, (name, settings) in enumerate(LOCAL.items()):
        length = {"train.steps": 800, "train.evaluate_every_steps": 40}
        trace = simulated("mnist", {"algorithm": f"{{name: {name}, interval: 8, {settings}}}"} | length, 4, seeds=1)
        share = trace.steps / trace.steps[-1] * trace.bytes
        axis.plot(share / 1e6, trace.values[0], label=name, marker="o", markersize=3, **look(number))
        print(
            f"{name}: loss {trace.values[0, -1]:.4f} after {trace.bytes / 1e6:.1f} MB and {trace.steps[-1]} steps",
            flush=True,
        )
    axis.set(xlabel="MB handed over by a rank", ylabel="test loss", xscale="log", yscale="log")
    axis.legend(frameon=False, ncols=2, fontsize="small")
    finish(figure, "bytes")


DIGITS = {(0.1, 8): 800, (0.1, 64): 768, (0.5, 32): 800}  # steps by (eta and gamma, I)


def digits() -> None:
    """Methods for different shards compared with CELGC: a CNN on MNIST, two ranks with five of the ten digits each."""
    figure, (curves, ends) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for number, name in enumerate(("celgc", "episode", "scaffold_clip")):
        lasts = []
        for (eta, interval), steps in DIGITS.items():
            found = [accuracies(name, eta, interval, steps, seed) for seed in (1, 2, 3)]
            lasts.append([rows[-3:, 1].mean() if len(rows) else 0.1 for rows in found])
            print(f"{name}, eta = gamma = {eta}, I = {interval}: {np.round(lasts[-1], 4)}", flush=True)
            if interval == 8:
                together = np.array([rows[:, 1] for rows in found])
                curves.plot(found[0][:, 0] / interval, together.mean(axis=0), label=name, **look(number))
                curves.fill_between(
                    found[0][:, 0] / interval,
                    together.min(axis=0),
                    together.max(axis=0),
                    color=COLOURS[number],
                    alpha=0.15,
                )
        places = np.arange(len(DIGITS)) + 0.15 * (number - 1)
        ends.plot(np.repeat(places, 3), np.ravel(lasts), "o", linestyle="", label=name, color=COLOURS[number])
    curves.set(xlabel="rounds", ylabel="test accuracy: mean, least, most", ylim=(0.7, 1))
    curves.set_title("$\\eta = \\gamma = 0.1$, I = 8", fontsize="medium")
    curves.legend(frameon=False, loc="lower right")
    ends.set(ylabel="test accuracy, last three evaluations; 0.1: diverged", ylim=(0, 1))
    ends.set_xticks(
        range(len(DIGITS)), [f"$\\eta = \\gamma = {eta}$\nI = {interval}" for eta, interval in DIGITS], rotation=0
    )
    finish(figure, "digits")


def accuracies(name: str, eta: float, interval: int, steps: int, seed: int) -> np.ndarray:
    """(step, test accuracy) of ten evaluations; none if the run has diverged."""
    rule = f"{{name: {name}, lr: {eta}, gamma: {eta}, interval: {interval}}}"
    chosen = [f"algorithm={rule}", "model={name: cnn, dropout: 0.0}", "data.similarity=0.0", f"train.steps={steps}"]
    chosen += [f"train.evaluate_every_steps={steps // 10}", f"train.seed={seed}"]

    def one(comm: Communicator) -> Memory:
        memory = Memory()
        Trainer(Job(load(PROJECT / "configs/mnist.yaml", chosen), comm)).train(memory, Silent())
        return memory

    try:
        rows = simulate(one, 2)[0].rows
    except NonFiniteGradient:
        rows = []
    return np.array([(row["step"], row["accuracy"]) for row in rows])


def bilevel() -> None:
    """Upper steps of three kinds on a problem whose gradient has no Lipschitz constant, four different ranks, I = 4."""
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    shared, lost = "name: slip, lower: shared, interval: 4, lower_lr: 0.25, on_nonfinite: skip", 1e6
    ways = {
        "plain, eta .1": "upper_step: plain, lr: 0.1",
        "clipped, eta .1, gamma .05": "upper_step: clipped, lr: 0.1, gamma: 0.05",
        "normalized, eta .05": "upper_step: normalized, lr: 0.05",
    }
    for number, (label, way) in enumerate(ways.items()):
        rule = {"algorithm": f"{{{shared}, {way}}}", "train.evaluate_every_steps": 4, "train.steps": 603}
        trace = simulated("bilevel_cosh", rule, 4, seeds=1)
        gaps = np.nan_to_num(trace.values[0] - LEAST_COSH, nan=lost, posinf=lost).clip(max=lost)
        end = np.flatnonzero(gaps == lost)[:1] + 1
        shown = slice(None, int(end[0]) if len(end) else None)
        print(f"bilevel_cosh, {label}: {gaps[-1]:.3g} above the minimum" if not len(end) else f"{label}: lost")
        axis.plot(trace.steps[shown], gaps[shown], label=label, **look(number))
    axis.set(xlabel="steps", ylabel="Phi - Phi*", yscale="log", ylim=(1e-4, lost))
    axis.legend()
    finish(figure, "bilevel")


def cleaning() -> None:
    """Weights of digits with right and with wrong labels, as slip learns them on one rank."""
    steps = (150, 200, 300, 500)
    figure, axes = plt.subplots(1, len(steps), figsize=(11, 3.2), sharey=True, layout="constrained")
    trainer = Trainer(Job(load(PROJECT / "configs/cleaning.yaml"), SingleRank()))
    right = trainer.task.data.right  # type: ignore[attr-defined]
    for axis, end in zip(axes, steps, strict=True):
        while trainer.optimizer.steps < end:
            trainer.step()
        weights = torch.sigmoid(trainer.model.x.detach())  # type: ignore[operator, union-attr]
        for number, (label, chosen) in enumerate((("right label", right), ("wrong label", ~right))):
            axis.hist(weights[chosen], bins=25, range=(0, 1), alpha=0.6, label=label, color=COLOURS[number])
            print(f"step {end}: mean weight, {label}: {weights[chosen].mean():.3f}")
        axis.set(title=f"step {end}", xlabel="weight")
    axes[0].set(ylabel="digits")
    axes[-1].legend()
    finish(figure, "cleaning")


def band(axis: Any, places: Any, ends: list[np.ndarray], number: int, label: str) -> None:
    """Mean and standard deviation over the seeds."""
    mean, spread = (np.array([f(end) for end in ends]) for f in (np.mean, lambda end: np.std(end, ddof=1)))
    axis.errorbar(places, mean, spread, marker="o", capsize=3, label=label, **look(number))


def finish(figure: Any, name: str) -> None:
    for axis in figure.axes:
        axis.xaxis.set_minor_formatter(NullFormatter())
    dress(figure)
    print("picture:", save(figure, DOCS, name)[0].relative_to(PROJECT))


FIGURES: dict[str, Callable[[], None]] = {
    "heterogeneity": heterogeneity,
    "clip21": clip21,
    "speed_up": speed_up,
    "bytes": bytes_,
    "digits": digits,
    "bilevel": bilevel,
    "cleaning": cleaning,
}

if __name__ == "__main__":
    chosen = sys.argv[1:]
    if not chosen or not set(chosen) <= set(FIGURES):
        sys.exit(f"which figure? {' | '.join(FIGURES)}")
    for figure_name in chosen:
        FIGURES[figure_name]()
