"""What to expect of N ranks over a link, and which I is worthwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from hvdclip.scaling.cost import Link, StepCost

WORTH = 1.05  # a smaller gain counts as none
HIDDEN = 2 / 3  # share of a step that is its backward pass; an average at every step can hide behind it


@dataclass(frozen=True)
class Prediction:
    """One link and number of ranks; everything is computed, nothing measured."""

    link: Link
    ranks: int
    cost: StepCost

    @property
    def helps(self) -> bool:
        return self.cost.bound >= WORTH

    @property
    def beside_overlap(self) -> float:
        """The gain of the chosen I over an average at every step that hides behind the backward pass."""
        return self.cost.overlapped(HIDDEN) / self.cost.at(self.cost.enough)

    def efficiency(self, interval: int) -> float:
        """X(N)/(N X(1)): one rank's step over this one's."""
        return self.cost.step / self.cost.at(interval)


def predict(step: float, payload: float, links: Sequence[Link], ranks: Sequence[int]) -> list[Prediction]:
    """For a step of that many seconds and an average of that many bytes."""
    return [Prediction(link, n, StepCost(step, link.average(n, payload))) for link in links for n in ranks]


def table(predictions: Sequence[Prediction]) -> Table:
    shown = Table(
        "link",
        title="predicted: T(I) = T_step + T_comm/I",
        caption=f"bound of the gain: 1 + T_comm/T_step; I: the least that gets 95 % of it; -: local steps cannot help\n"
        f"(bound below {WORTH:g}); beyond overlap: over an average of gradients at every step that hides behind a\n"
        f"backward pass of {HIDDEN:.0%} of the step",
        caption_justify="left",
    )
    for column in ("ranks", "T_comm, ms", "efficiency, I = 1", "bound", "I", "gain", "efficiency", "beyond overlap"):
        shown.add_column(column, justify="right")
    for one in predictions:
        cost, interval = one.cost, one.cost.enough
        gain, efficiency = f"{cost.gain(interval):.2f}", f"{one.efficiency(interval):.0%}"
        worth = (str(interval), gain, efficiency, f"{one.beside_overlap:.2f}")
        shown.add_row(
            one.link.name,
            f"{one.ranks:,}",
            f"{1e3 * cost.average:.3g}",
            f"{one.efficiency(1):.0%}",
            f"{cost.bound:.2f}",
            *(worth if one.helps else ("-", "-", "-", "-")),
        )
    return shown
