"""Time to a loss: the steps that it takes, which grow with I, times what a step costs, which falls with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from rich.table import Table

from hvdclip.report.look import dress, look, save
from hvdclip.scaling.cost import Cost
from hvdclip.simulation.trace import Trace

Costs = dict[str, Callable[[int], Cost]]  # by the link's name, the cost on N ranks


@dataclass(frozen=True)
class Steps:
    """Local steps to the loss on N simulated ranks, a number for each seed; infinite where it was not reached."""

    ranks: int
    interval: int
    steps: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.steps.mean())

    def seconds(self, cost: Cost) -> float:
        """Simulated steps times predicted seconds."""
        return self.mean * cost.at(self.interval)


def steps_to(trace: Trace, loss: float) -> np.ndarray:
    """Where each seed's curve first comes to the loss, on the line between two evaluations."""
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


def best(found: Sequence[Steps], cost: Callable[[int], Cost], ranks: int) -> Steps | None:
    """The I that comes to the loss first on that many ranks; None where none does."""
    of_ranks = [each for each in found if each.ranks == ranks and np.isfinite(each.mean)]
    return min(of_ranks, key=lambda each: each.seconds(cost(ranks)), default=None)


def table(found: Sequence[Steps], costs: Costs, loss: float) -> Table:
    """Steps as simulated, seconds as predicted from them; the best I of each link and number of ranks has a star."""
    shown = Table("ranks", title=f"to a loss of {loss:g}; seconds: simulated steps x predicted step (*: the best I)")
    for column in ("I", "steps, simulated", "±", *(f"{name}, s" for name in costs)):
        shown.add_column(column, justify="right")
    for each in found:
        reached = np.isfinite(each.mean)
        cells = []
        for cost in costs.values():
            star = " *" if each is best(found, cost, each.ranks) else ""
            cells.append(f"{each.seconds(cost(each.ranks)):.3g}{star}" if reached else "-")
        spread = f"{each.steps.std(ddof=1):.2g}" if len(each.steps) > 1 and reached else ""
        shown.add_row(str(each.ranks), str(each.interval), f"{each.mean:,.0f}" if reached else "never", spread, *cells)
    return shown


def plot(found: Sequence[Steps], costs: Costs, loss: float, folder: Path) -> list[Path]:
    """Steps over I, and seconds over I for each link, on the most ranks; no picture where no loss was reached."""
    if not any(np.isfinite(each.mean) for each in found):
        return []
    ranks = max(each.ranks for each in found)
    figure, (steps, seconds) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for number, n in enumerate(sorted({each.ranks for each in found})):
        of_ranks = [each for each in found if each.ranks == n and np.isfinite(each.mean)]
        spread = [each.steps.std(ddof=1) if len(each.steps) > 1 else 0.0 for each in of_ranks]
        places, means = [each.interval for each in of_ranks], [each.mean for each in of_ranks]
        steps.errorbar(places, means, spread, marker="o", capsize=3, label=f"N = {n}", **look(number))
    of_most = [each for each in found if each.ranks == ranks and np.isfinite(each.mean)]
    for number, (name, cost) in enumerate(costs.items()):
        times = [each.seconds(cost(ranks)) for each in of_most]
        seconds.plot([each.interval for each in of_most], times, marker="s", label=name, **look(number))
    steps.set(xlabel="I", ylabel=f"local steps to a loss of {loss:g}, simulated", xscale="log")
    seconds.set(xlabel="I", ylabel=f"seconds to it on {ranks} ranks, predicted", xscale="log", yscale="log")
    intervals = sorted({each.interval for each in found})
    for axis in (steps, seconds):
        axis.set_xticks(intervals, [str(interval) for interval in intervals])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize="small")
    dress(figure)
    return save(figure, folder, "target")
