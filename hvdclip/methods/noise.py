"""Gaussian noise on the messages: the differentially private forms of the error-feedback methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hvdclip.engine import GradientMethod
from hvdclip.flat import Vector
from hvdclip.settings import CommonSettings, Finite, setting


class NoiseSettings(CommonSettings):
    """Methods whose messages may carry noise."""

    noise: Finite = setting(
        0.0,
        ge=0,
        description="standard deviation of the Gaussian noise in each entry of a message",
        unit="as the message",
    )
    noise_seed: int = setting(0, ge=0, description="noise is drawn from (noise_seed + train.seed, rank)")


class Noise:
    """The noise that a rank adds to its messages; saved with the method."""

    def __init__(self, method: GradientMethod):
        settings = method.settings
        self.deviation = settings.noise
        self._draws = torch.Generator(method.space.device)
        seed = np.random.SeedSequence((settings.noise_seed, method.comm.rank)).generate_state(1)[0]
        self._draws.manual_seed(int(seed))
        method.parts.append(self)

    def added_to(self, m: Vector) -> Vector:
        """m + noise_i, drawn by this rank."""
        if self.deviation == 0:
            return m
        return m + m.like([self.deviation * torch.empty_like(p).normal_(generator=self._draws) for p in m.parts])

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._draws.set_state(state["draws"])
