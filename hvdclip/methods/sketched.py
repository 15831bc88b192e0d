"""SAFL: clipped local steps, of which the ranks send a count sketch, and an adaptive step of the server's.

Chen, Li, Banerjee: Sketched Adaptive Federated Deep Learning. 2024.
"""

from typing import Any, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from hvdclip.averaging import InPlace
from hvdclip.flat import Gradient, Space, Vector
from hvdclip.messages import Message
from hvdclip.methods.local import LocalMethod
from hvdclip.methods.settings import Finite, LocalSettings, ThresholdSettings, setting


class Sketched(LocalMethod):
    name = "sketched"
    formula = (
        "x_i -= min(eta, gamma/||g_i||) g_i; every I steps d = unsketch(mean sketch(x_round - x_i)), "
        "x = x_round - server_lr m/(sqrt(v_max) + eps) with AMSGrad's moments of d"
    )
    paper = "Chen, Li, Banerjee, 2024 (SAFL)"
    message_size = "b every I steps"
    memory = "4P + b"

    class Settings(LocalSettings, ThresholdSettings):
        """eta is lr, b is width, I is interval."""

        width: int = setting(ge=1, description="b, floats of the sketch", unit="floats")
        sketch_seed: int = setting(0, ge=0, description="a round's sketch is drawn from (sketch_seed, round)")
        server_lr: Finite = setting(gt=0, description="step size of the server's step", unit="x")
        server_beta1: Finite = setting(0.9, ge=0, lt=1, description="decay rate of its first moment m")
        server_beta2: Finite = setting(0.99, ge=0, lt=1, description="decay rate of its second moment v")
        server_eps: Finite = setting(1e-8, gt=0, description="eps, added to sqrt(v_max)", unit="x")

        @model_validator(mode="after")
        def _one_server_step(self) -> Self:
            if self.outer != "none":
                raise ValueError(f"outer is {self.outer!r}; allowed: none, since the server's step is an outer step")
            return self

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    def keeps(self) -> tuple[str, ...]:
        return ("x_round", "m", "v", "v_max")

    def alike(self) -> tuple[str, ...]:
        return self.keeps()

    def __init__(self, model_or_params: Any, settings: Any, comm: Any):
        super().__init__(model_or_params, settings, comm)
        self.space.refuse_float16(self.name)

    @property
    def host_skips(self) -> bool:
        return False  # a local step changes x only

    def _lay_out(self) -> tuple[Message, Vector]:
        sketch = nn.Parameter(torch.zeros(self.settings.width, dtype=self.space.widest, device=self.space.device))
        _, x = super()._lay_out()
        message = self.message_of(1, self._riders(), space=Space([sketch]))
        self.exchange = InPlace(message, x)
        return message, x

    def start_round(self) -> None:
        self.vectors["x_round"].copy_(self.x)

    def local_step(self, g: Gradient) -> None:
        self.move(g, self.clip(g))  # x -= min(eta, gamma/||g||) * g

    def end_round(self) -> None:
        sketch = self.message.vectors[0].flats[0].zero_()
        way = self.vectors["x_round"].clone().sub_(self.x)
        for part, h, s in zip(way.parts, *self.hashes(self.rounds), strict=True):
            sketch.index_add_(0, h, (s * part.flatten()).to(sketch.dtype))

    def settle(self) -> None:
        sketch = self.message.vectors[0].flats[0]
        hashes = zip(self.x.parts, *self.hashes(self.rounds), strict=True)
        d = self.x.like([(s * sketch[h]).to(part.dtype).view(part.shape) for part, h, s in hashes])
        x_round, m, v, v_max = (self.vectors[name] for name in self.keeps())
        beta1, beta2, eps = self.settings.server_beta1, self.settings.server_beta2, self.settings.server_eps
        m.copy_(beta1 * m + (1 - beta1) * d)
        v.copy_(beta2 * v + (1 - beta2) * d**2)
        v_max.maximum_(v)
        self.x.copy_(x_round - self.settings.server_lr * (m / (v_max**0.5 + eps)))

    def hashes(self, round: int) -> tuple[list[Tensor], list[Tensor]]:
        """Buckets h and signs s of every parameter entry in a round (from 0), the same on all ranks."""
        draw = np.random.default_rng((self.settings.sketch_seed, round))
        device = self.space.device
        h = torch.from_numpy(draw.integers(self.settings.width, size=self.space.size)).to(device)
        s = torch.from_numpy(draw.integers(2, size=self.space.size) * 2.0 - 1).to(device)
        sizes = [part.numel() for part in self.x.parts]
        return list(h.split(sizes)), list(s.split(sizes))
