"""Clipped steps along a variance-reduced estimate of the gradient (SPIDER).

Reisizadeh, Li, Das, Jadbabaie: Variance-reduced Clipping for Non-convex Optimization. 2023.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, ThresholdSettings, setting


class SpiderClip(LocalMethod):
    name = "spider_clip"
    formula = (
        "every q steps v_i = mean of anchor_batches gradients, else v_i += g_i(x_t; B) - g_i(x_{t-1}; B); "
        "x_i -= min(eta, gamma/||v_i||) v_i; every I steps x_i = mean x"
    )
    paper = "Reisizadeh, Li, Das, Jadbabaie, 2023"
    message_size = "P every I steps"
    memory = "2P"
    peak = "4P"
    extra_gradients = "1 a step; at anchors anchor_batches - 1"

    class Settings(AveragingSettings, ThresholdSettings):
        """eta is lr, q is anchor_every, I is interval."""

        anchor_every: int = setting(ge=1, description="q, steps between two large batches", unit="steps")
        anchor_batches: int = setting(1, ge=1, description="batches in a large batch", unit="batches")

    @property
    def needs_closure(self) -> bool:
        return True

    @property
    def changes(self) -> tuple[str, ...] | None:
        # an anchor decides which gradients a step takes, so the host has to know whether there is one
        return ("x_before", "v") if "anchored" in self.numbers else None

    def keeps(self) -> tuple[str, ...]:
        return ("x_before", "v")

    def local_step(self, g: Gradient) -> None:
        x_before, v = self.vectors["x_before"], self.vectors["v"]
        new = g.clone()  # the next gradient overwrites .grad
        if self._at_anchor():
            for taken in range(2, self.settings.anchor_batches + 1):
                new.lerp_(self.fresh_gradient(), 1 / taken)  # the mean so far
        else:
            new.sub_(self.same_batch_gradient(x_before)).add_(v)
        if "anchored" in self.numbers:  # used for a further gradient too
            self.skip.check_on_host()
        else:
            self.skip.check()
        self.numbers["anchored"] = True
        v.copy_(new)
        x_before.copy_(self.x)
        self.move(v, self.clip(v))  # x -= min(eta, gamma/||v||) * v

    def _at_anchor(self) -> bool:
        return (self.steps - 1) % self.settings.anchor_every == 0 or "anchored" not in self.numbers
