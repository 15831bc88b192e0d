"""Clipped steps, after each of which a rank averages with its two neighbours in a ring; no collective.

Sun, Zhang, Chen, Li: Distributed Stochastic Optimization under Heavy-Tailed Noises. 2023 (arXiv 2312.15847).

The defaults keep two sums finite, as the usual proof requires: that of (alpha_k tau_k)^2 and, for noise with a moment
of any order d above 1, that of alpha_k tau_k^(1-d), the bias of clipping. This requires lr_decay - tau_growth > 1/2 and
lr_decay + (d-1) tau_growth > 1. The paper's own conditions were not available.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pydantic import model_validator
from typing_extensions import Self

from hvdclip.engine import Method, NonFiniteGradient, StepLeftOut
from hvdclip.flat import Gradient
from hvdclip.flat.scalars import at_most, on_host
from hvdclip.settings import CommonSettings, Finite, Positive, setting

# Statistics stay local, so ranks exchange requests separately, and not at every step.
STEPS_BETWEEN_REQUESTS = 10


class DecentralizedClip(Method):
    # The metrics are of this rank's own gradients; `samples` assumes that the others have read as many.
    name = "decentralized_clip"
    formula = "x_i = proj(v_i - alpha_k clip(g_i(v_i), tau_k)); v_i = mean of x_{i-1}, x_i, x_{i+1}"
    paper = "Sun, Zhang, Chen, Li, 2023"
    message_size = "P to each of 2 neighbours every step"
    memory = "0"
    peak = "3P"

    class Settings(CommonSettings):
        """alpha_k = lr/(k+1)^lr_decay and tau_k = tau (k+1)^tau_growth in step k = 0, 1, ..."""

        tau: Positive = setting(description="tau, threshold on the gradient's norm in the first step", unit="g")
        lr_decay: Finite = setting(1.0, gt=0, le=1, description="power of k+1 by which the step size decreases")
        tau_growth: Finite = setting(0.4, ge=0, description="power of k+1 by which the threshold grows")
        radius: Finite | None = setting(
            None, gt=0, description="radius of the ball around 0 onto which x_i is projected after its step", unit="x"
        )

        @model_validator(mode="after")
        def _squares_have_a_sum(self) -> Self:
            if 2 * (self.lr_decay - self.tau_growth) <= 1:
                raise ValueError(
                    f"lr_decay is {self.lr_decay} and tau_growth {self.tau_growth}; allowed: lr_decay - tau_growth "
                    "above 0.5, so that the sum of (alpha_k tau_k)^2 is finite"
                )
            return self

    def __init__(self, model_or_params: Any, settings: Any, comm: Any):
        super().__init__(model_or_params, settings, comm)
        if self.weight != 1.0:
            raise ValueError("weight: neighbours take plain means; allowed: equal weights")
        if not comm.has_ring:
            raise RuntimeError(
                "decentralized_clip sends to neighbours by MPI, but Horovod runs without MPI here: start the ranks "
                "with mpirun, srun --mpi=pmix or horovodrun --mpi"
            )
        self._neighbours = self.message_of(1)
        self._start(self._neighbours.vectors[0])
        self.numbers |= {"agree": True, "failed": 0}
        self.progress.unknown = ("drift",)

    @property
    def messages(self) -> Sequence[Any]:
        return [self._neighbours]

    def communication(self) -> str:
        return "averaged with two neighbours every step"

    def apart_in_x(self) -> list[str]:
        return ["its own x"]

    def agrees(self) -> bool:
        return self.comm.size == 1 or self.numbers["agree"]

    def take(self, g: Gradient) -> None:
        with suppress(StepLeftOut):
            self.skip.check_on_host()
            k = self.steps  # from 1 in the first step
            alpha, tau = k**-self.settings.lr_decay, self.settings.tau * k**self.settings.tau_growth
            self.move(g, alpha * self.clip_message(g, tau))  # x_i = v_i - alpha_k clip(g_i(v_i), tau_k)
            if self.settings.radius is not None:
                self.x.mul_(at_most(on_host(self.settings.radius / self.x.norm()), 1.0))

    def after_step(self) -> None:
        self._neighbours.average_with_neighbours()  # v_i = sum_j A_ij x_j
        self.numbers["agree"] = False
        # statistics stay local; that a rank has failed is reported to all when they next meet
        self.statistics.agree_alone()
        if self.statistics.failed and not self.numbers["failed"]:
            self.numbers["failed"] = self.steps
        self.statistics.failed = {}
        self._finish_round()

    def requests(self) -> set[str]:
        """As elsewhere, but the ranks exchange requests in every tenth step."""
        if self.steps % STEPS_BETWEEN_REQUESTS:
            return set()
        return set().union(*self.comm.gather(self.statistics.take_requests(), "checkpoint"))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """As elsewhere; raises NonFiniteGradient, on all ranks, if one has left out a step."""
        self._tell_failures("evaluation")
        with super().averaged():
            yield

    @torch.no_grad()
    def synchronize(self) -> None:
        """Average x over all ranks; raises NonFiniteGradient if a rank has left out a step."""
        if not self.agrees():
            everyone = self.message_of(1, [self.buffers])
            everyone.vectors[0].copy_(self.x)
            everyone.average("final")
            self.x.copy_(everyone.vectors[0])
            self.numbers["agree"] = True
            self.kept.keep()
        self._tell_failures("final")

    def _tell_failures(self, purpose: str) -> None:
        failed = self.comm.gather(self.numbers["failed"], purpose)
        self.numbers["failed"] = 0
        if any(failed) and self.settings.on_nonfinite == "raise":
            where = ", ".join(f"rank {rank} at step {step}" for rank, step in enumerate(failed) if step)
            raise NonFiniteGradient(f"the loss, the gradient or its norm is not finite on {where}")
