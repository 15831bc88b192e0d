"""SAFL: clipped local steps; the ranks send a count sketch of them, and the server takes an adaptive step.

Chen, Li, Banerjee: Sketched Adaptive Federated Deep Learning. 2024.
"""

from typing import Any

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from hvdclip.averaging import Exchange
from hvdclip.engine import COMMON, Assembly, LocalMethod, Sharing
from hvdclip.flat import Gradient, Space, Vector
from hvdclip.settings import Finite, LocalSettings, ThresholdSettings, setting


class Sketched(LocalMethod):
    name = "sketched"
    formula = (
        "x_i -= min(eta, gamma/||g_i||) g_i; every I steps d = unsketch(mean sketch(x_round - x_i)), "
        "x = x_round - server_lr m/(sqrt(v_max) + eps) with AMSGrad's moments of d"
    )
    paper = "Chen, Li, Banerjee, 2024 (SAFL)"
    message_size = "b every I steps"
    memory = "4P + b"
    peak = "11P + b"

    class Settings(LocalSettings, ThresholdSettings):
        """eta is lr, b is width, I is interval."""

        width: int = setting(ge=1, description="b, floats of the sketch", unit="floats")
        sketch_seed: int = setting(0, ge=0, description="a round's sketch is drawn from (sketch_seed, round)")
        server_lr: Finite = setting(gt=0, description="step size of the server's step", unit="x")
        server_beta1: Finite = setting(0.9, ge=0, lt=1, description="decay rate of the server step's first moment m")
        server_beta2: Finite = setting(0.99, ge=0, lt=1, description="decay rate of the server step's second moment v")
        server_eps: Finite = setting(1e-8, gt=0, description="eps, added to sqrt(v_max)", unit="x")

        @model_validator(mode="after")
        def _one_server_step(self) -> Self:
            if self.outer != "none":
                raise ValueError(f"outer is {self.outer!r}; allowed: none, because the server's step is an outer step")
            return self

        @property
        def needs_x_round(self) -> bool:
            return True

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    @property
    def changes(self) -> tuple[str, ...]:
        return ()  # besides x

    def keeps(self) -> dict[str, Sharing]:
        return {"m": COMMON, "v": COMMON, "v_max": COMMON}

    def make_exchange(self, assembly: Assembly) -> Exchange:
        return Sketch(self, assembly)

    def set_up(self) -> None:
        self.space.refuse_float16(self.name)

    def local_step(self, g: Gradient) -> None:
        self.move(g, self.clip(g))  # x -= min(eta, gamma/||g||) * g


class Sketch:
    """Averages a count sketch of x_round - x, from which the server's AMSGrad step makes the next common x."""

    def __init__(self, method: Sketched, assembly: Assembly):
        self.settings, self.x, self.x_round = method.settings, method.space.vector(), assembly.vectors["x_round"]
        self.statistics, self.moments = method.statistics, [method.vectors[name] for name in ("m", "v", "v_max")]
        sketch = nn.Parameter(torch.zeros(self.settings.width, dtype=method.space.widest, device=method.space.device))
        self.message = method.message_of(1, assembly.riders, space=Space([sketch]))
        self.sketch = self.message.vectors[0].flats[0]

    def start(self, key: tuple[int, ...]) -> None:
        *_, self.round = key
        update = self.x_round.clone().sub_(self.x)
        self.sketch.zero_()
        for part, h, s in zip(update.parts, *self.hashes(self.round), strict=True):
            self.sketch.index_add_(0, h, (s * part.flatten()).to(self.sketch.dtype))
        self.message.start(meanwhile=False)

    def wait(self) -> None:
        self.message.wait()

    def finish(self) -> Vector:
        self.message.finish()
        hashes = zip(self.x.parts, *self.hashes(self.round), strict=True)
        d = self.x.like([(s * self.sketch[h]).to(part.dtype).view(part.shape) for part, h, s in hashes])
        kept = {i: [u.parts[i].clone() for u in self.moments] for i in self.statistics.absent_everywhere()}
        m, v, v_max = self.moments
        beta1, beta2, eps = self.settings.server_beta1, self.settings.server_beta2, self.settings.server_eps
        m.lerp_(d, 1 - beta1)
        v.lerp_(d**2, 1 - beta2)
        v_max.maximum_(v)
        self.x.copy_(self.x_round).sub_((m / (v_max**0.5 + eps)).mul_(self.settings.server_lr))
        for place, moments in kept.items():  # no step of the round had a gradient for this parameter
            self.x.parts[place].copy_(self.x_round.parts[place])
            for moment, before in zip(self.moments, moments, strict=True):
                moment.parts[place].copy_(before)
        return self.x

    def apart(self) -> list[str]:
        return []

    def hashes(self, round: int) -> tuple[list[Tensor], list[Tensor]]:
        """Buckets h and signs s of every parameter entry in a round (from 0), the same on all ranks."""
        draw = np.random.default_rng((self.settings.sketch_seed, round))
        sizes, device = [part.numel() for part in self.x.parts], self.x.flats[0].device
        h = torch.from_numpy(draw.integers(self.settings.width, size=sum(sizes)))
        s = torch.from_numpy(draw.integers(2, size=sum(sizes)) * 2.0 - 1)
        return list(_sent(h, device).split(sizes)), list(_sent(s, device).split(sizes))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied without a wait."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
