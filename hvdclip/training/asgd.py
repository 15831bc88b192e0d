"""NT-ASGD: once the validation loss stalls, evaluations use a running mean of models (Merity et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from hvdclip.messages import mean_over_ranks
from hvdclip.methods import Method
from hvdclip.torch_private import foreach_copy_
from hvdclip.training.state import Part


class NonMonotoneAverage:
    """Starts when the validation loss exceeds the smallest of all but the last `nonmono` evaluations.

    `epoch`: the mean of the averaged models at the evaluations from then on (as in the papers' code, which evaluates at
    epoch ends). `per_step`: the mean of each rank's iterates, averaged over the ranks when evaluated.
    """

    def __init__(self, optimizer: Method, form: Literal["epoch", "per_step"], nonmono: int):
        self.optimizer, self.form, self.nonmono = optimizer, form, nonmono
        self.losses: list[float] = []
        self.count = 0
        self.mean = optimizer.space.vector()
        self.started = False

    def after_evaluation(self, loss: float) -> None:
        """Take the validation loss of the averaged model."""
        self.losses.append(loss)
        earlier = self.losses[: -self.nonmono - 1]
        if not self.started and earlier and loss > min(earlier):
            self.started = True

    @torch.no_grad()
    def add(self) -> None:
        """Add the current parameters to the mean, once started."""
        if self.started:
            self.count += 1
            for mean, x in zip(self.mean.flats, self.optimizer.x.flats, strict=True):
                mean.lerp_(x, 1 / self.count)

    def after_step(self) -> None:
        if self.form == "per_step":
            self.add()

    def state_dict(self) -> dict[str, Any]:
        numbers = {"losses": list(self.losses), "count": self.count, "started": self.started}
        return numbers | {"mean": list(self.mean.flats)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.count, self.started = list(state["losses"]), state["count"], state["started"]
        foreach_copy_(self.mean.flats, state["mean"])

    def part(self) -> Part:
        return Part(self.state_dict, self.load_state_dict, check_elsewhere=self._check_elsewhere)

    def _check_elsewhere(self) -> None:
        if self.form == "per_step":
            raise ValueError("each rank keeps its own running mean of models (nt_asgd: per_step)")

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside, the parameters are the running mean, if there is one; afterwards the optimizer's again."""
        if self.form == "epoch":
            self.add()
        if not self.count:
            yield
            return
        mean = self.mean
        if self.form == "per_step":
            of_x = [self.optimizer.space]
            (mean,) = mean_over_ranks([mean], of_x, [], self.optimizer.comm, self.optimizer.weight)
        with self.optimizer.x.replaced_by(mean):
            yield
