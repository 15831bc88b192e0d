"""Methods whose ranks hold different parameters between averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hvdclip.messages import mean_over_ranks
from hvdclip.methods.steps import Steps


class Apart(Steps):
    """What is evaluated is the mean over the ranks."""

    @property
    def ranks_agree(self) -> bool:
        """Whether all ranks hold the same x now."""
        raise NotImplementedError

    @property
    def drawn(self) -> float:
        """The share of the ranks that take part in the present round."""
        return 1.0

    @contextmanager
    def averaged(self) -> Iterator[None]:
        with super().averaged():
            if self.ranks_agree:
                yield
                return
            own_buffers = [buffer.clone() for buffer in self.buffers.tensors()]
            with torch.no_grad():
                weight = self.weight / self.drawn if self.takes_part else 0.0
                mean = mean_over_ranks(self.x, self.space, [self.buffers], self.comm, weight)
            try:
                with self.x.replaced_by(mean):
                    yield
            finally:
                with torch.no_grad():
                    for buffer, own in zip(self.buffers.tensors(), own_buffers, strict=True):
                        buffer.copy_(own)
