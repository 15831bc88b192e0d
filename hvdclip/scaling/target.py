"""Time to a loss: the number of steps, which grows with I, times the cost of a step, which falls with I."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from hvdclip.report import runs
from hvdclip.report.look import canvas, dress, look, save
from hvdclip.scaling.cost import StepCost
from hvdclip.simulation.trace import Trace

Costs = dict[str, Callable[[int], StepCost]]  # by the link's name, the cost on N ranks


@dataclass(frozen=True)
class Steps:
    """Local steps to the loss on N simulated ranks, a number for each seed; infinite if it was not reached."""

    ranks: int
    interval: int
    steps: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.steps.mean())

    def seconds(self, cost: StepCost) -> float:
        """Simulated steps times predicted seconds."""
        return self.mean * cost.at(self.interval)


@dataclass(frozen=True)
class Real:
    """What one run on real ranks needed for the loss, in local steps and in seconds without evaluations."""

    steps: float
    seconds: float

    @classmethod
    def of(cls, run: Path, loss: float) -> Real:
        (found,) = runs.read([run])
        steps = _crossing(found.validation("step")[0], found.validation("loss")[0], loss)
        if not np.isfinite(steps):
            return NEVER
        return cls(steps, float(np.interp(steps, found.series("step")[0], found.total("round_s")[0])))


NEVER = Real(float("inf"), float("inf"))


def steps_to(trace: Trace, loss: float) -> np.ndarray:
    """Where each seed's curve first reaches the loss, interpolated between two evaluations."""
    return np.array([_crossing(trace.steps, values, loss) for values in trace.values])


def _crossing(steps: np.ndarray, values: np.ndarray, loss: float) -> float:
    reached = np.flatnonzero(values <= loss)
    if not len(reached):
        return float("inf")
    k = int(reached[0])
    if k == 0:
        return float(steps[0])
    share = (values[k - 1] - loss) / (values[k - 1] - values[k])
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


def best(found: Sequence[Steps], cost: Callable[[int], StepCost], ranks: int) -> Steps | None:
    """The I that reaches the loss first on that many ranks; None if none does."""
    of_ranks = [each for each in found if each.ranks == ranks and np.isfinite(each.mean)]
    return min(of_ranks, key=lambda each: each.seconds(cost(ranks)), default=None)


def table(found: Sequence[Steps], costs: Costs, loss: float, real: Sequence[Real] = ()) -> Table:
    """Steps as simulated, seconds as predicted from them; the best I of each link and number of ranks has a star.

    If there are real runs, also what those needed (with the first seed).
    """
    shown = Table("ranks", title=f"to a loss of {loss:g}; seconds: simulated steps x predicted step (*: the best I)")
    for column in ("I", "steps, simulated", "±", *(f"{name}, s" for name in costs)):
        shown.add_column(column, justify="right")
    for column in ("steps, real", "s, real", "predicted is off by") if real else ():
        shown.add_column(column, justify="right")
    for number, each in enumerate(found):
        reached = np.isfinite(each.mean)
        cells = []
        for cost in costs.values():
            star = " *" if each is best(found, cost, each.ranks) else ""
            cells.append(f"{each.seconds(cost(each.ranks)):.3g}{star}" if reached else "-")
        spread = f"{each.steps.std(ddof=1):.2g}" if len(each.steps) > 1 and reached else ""
        if real:
            cells += _beside(each, costs, real[number])
        shown.add_row(str(each.ranks), str(each.interval), f"{each.mean:,.0f}" if reached else "never", spread, *cells)
    return shown


def _beside(each: Steps, costs: Costs, real: Real) -> list[str]:
    """The real run, and how far the seconds predicted for the same seed are off."""
    if not np.isfinite(real.steps):
        return ["never", "-", "-"]
    (cost,) = costs.values()  # the study's costs
    predicted = each.steps[0] * cost(each.ranks).at(each.interval)
    off = f"{predicted / real.seconds - 1:+.1%}" if np.isfinite(predicted) else "-"
    return [f"{real.steps:,.0f}", f"{real.seconds:.3g}", off]


def plot(found: Sequence[Steps], costs: Costs, loss: float, folder: Path, real: Sequence[Real] = ()) -> list[Path]:
    """Steps over I, and seconds over I for each link, on the most ranks; no picture if no loss was reached.

    Lines are simulated steps and predicted seconds; crosses are real runs.
    """
    if not any(np.isfinite(each.mean) for each in found):
        return []
    ranks = max(each.ranks for each in found)
    figure = canvas(11, 4.4)
    steps, seconds = figure.subplots(1, 2)
    for number, n in enumerate(sorted({each.ranks for each in found})):
        of_ranks = [each for each in found if each.ranks == n and np.isfinite(each.mean)]
        spread = [each.steps.std(ddof=1) if len(each.steps) > 1 else 0.0 for each in of_ranks]
        places, means = [each.interval for each in of_ranks], [each.mean for each in of_ranks]
        steps.errorbar(places, means, spread, marker="o", capsize=3, label=f"N = {n}", **look(number))
    of_most = [each for each in found if each.ranks == ranks and np.isfinite(each.mean)]
    for number, (name, cost) in enumerate(costs.items()):
        times = [each.seconds(cost(ranks)) for each in of_most]
        seconds.plot([each.interval for each in of_most], times, marker="s", label=name, **look(number))
    crosses = {"marker": "x", "markersize": 9, "linestyle": "", "color": "black"}
    for axis, key in ((steps, "steps"), (seconds, "seconds")) if real else ():
        of_real = [getattr(each, key) for each in real]
        shown = [k for k, each in enumerate(found) if each.ranks == ranks and np.isfinite(of_real[k])]
        axis.plot(
            [found[k].interval for k in shown], [of_real[k] for k in shown], label=f"real run, N = {ranks}", **crosses
        )
    steps.set(xlabel="I", ylabel=f"local steps to a loss of {loss:g}, simulated", xscale="log")
    seconds.set(xlabel="I", ylabel=f"seconds to it on {ranks} ranks, predicted", xscale="log", yscale="log")
    intervals = sorted({each.interval for each in found})
    for axis in (steps, seconds):
        axis.set_xticks(intervals, [str(interval) for interval in intervals])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize="small")
    dress(figure)
    return save(figure, folder, "target")
