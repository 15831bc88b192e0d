"""Bucket-wise clipping: each bucket of gradients is clipped and sent while backward computes the next one.

Kim et al.: Breaking MLPerf Training: A Case Study on Optimizing BERT. 2024 (there for LAMB).
"""

import math
import weakref
from typing import Any

import torch
from torch import Tensor

from hvdclip.engine import GradientMethod
from hvdclip.engine.torch_optimizer import uncompiled
from hvdclip.flat import Gradient, Vector
from hvdclip.messages import Message, Rider
from hvdclip.settings import Positive, SgdSettings, ThresholdSettings, setting


class Bucket:
    """Some of the parameters and the message of their gradients; `places` are their places in a vector's parts."""

    def __init__(self, method: "BucketClip", places: list[int], number: int, riders: list[Rider]):
        space = method.types.space([method.space.parameters[i] for i in places])
        self.places, self.space, self.parameters = places, space, space.parameters
        self.message: Message = method.message_of(1, riders, space=space, name=f"bucket{number}")
        self.share = math.sqrt(space.size / method.space.size)
        self.missing = set(range(len(places)))
        self.norm = self.ratio = torch.zeros(())

    def close(self, c: float) -> None:
        """Put the clipped gradients into the message: clip(g_b, c sqrt(P_b/P))."""
        g = self.space.gradient([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])
        self.norm = g.norm()
        self.ratio = c * self.share / self.norm
        self.message.vectors[0].copy_(g).mul_(self.ratio.clamp(max=1.0))
        self.missing.clear()


class BucketClip(GradientMethod):
    name = "bucket_clip"
    formula = "x -= eta d, d from mean clip(g_ib, c sqrt(P_b/P)) in each bucket b of P_b floats, c = gamma/eta"
    paper = "Kim et al., 2024 (Breaking MLPerf Training)"
    message_size = "P every step, overlapped with backward"
    memory = "P"

    class Settings(SgdSettings, ThresholdSettings):
        """eta is lr."""

        bucket_mb: Positive = setting(
            25.0, description="size at which a bucket is sent; no tensor is split", unit="MiB"
        )

    @classmethod
    def vectorises(cls, settings: Any) -> bool:
        return False

    def make_messages(self) -> list[Message]:
        groups = self._fill()
        self.buckets = [
            Bucket(self, places, n, [self.buffers, self.statistics] if n == len(groups) - 1 else [])
            for n, places in enumerate(groups)
        ]
        return [bucket.message for bucket in self.buckets]

    def set_up(self) -> None:
        for bucket in self.buckets:
            for i, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(self._hook(bucket, i))

    def gradient_step(self, g: Gradient) -> None:
        self.exchange()
        parts: list[Tensor] = [torch.empty(0)] * len(self.space.parameters)
        for bucket in self.buckets:
            for place, part in zip(bucket.places, bucket.message.vectors[0].parts, strict=True):
                parts[place] = part
        self.sgd.descend(self.sgd.direction(Vector(parts)))  # x -= eta * d

    def communicate(self) -> None:
        # The last bucket is complete when backward ends; it waits for step(), so that it can take the riders.
        self.buckets[-1].message.start()
        for bucket in self.buckets:
            bucket.message.wait()
            bucket.message.finish()
            bucket.missing = set(range(len(bucket.places)))

    def _fill(self) -> list[list[int]]:
        """Places of the parameters by bucket, in reverse registration order, which is roughly the order of backward."""
        groups: list[list[int]] = []
        room = 0.0
        for i in reversed(range(len(self.space.parameters))):
            p = self.space.parameters[i]
            if room <= 0:
                groups.append([])
                room = self.settings.bucket_mb * 2**20
            groups[-1].append(i)
            room -= p.numel() * p.element_size()
        return groups

    def _hook(self, bucket: Bucket, i: int) -> Any:
        itself = weakref.ref(self)  # a hook must not keep a discarded optimizer alive

        @uncompiled
        @torch.no_grad()
        def produced(_: Tensor) -> None:
            method = itself()
            if method is None or bucket not in method.buckets:  # or the buckets were made again
                return
            if i not in bucket.missing:
                raise RuntimeError("bucket_clip sends gradients during backward(): call step() after each backward()")
            bucket.missing.remove(i)
            if not bucket.missing and bucket is not method.buckets[-1]:
                method.close_bucket(bucket)

        return produced

    def _gradient(self) -> Gradient:
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            raise TypeError("bucket_clip clips during backward(), before GradScaler unscales: train without GradScaler")
        parts = self.gradients.parts()
        self.gradients.note_absent()
        for bucket in self.buckets:
            if bucket is self.buckets[-1] or bucket.missing:
                self.close_bucket(bucket)
        norms, ratios = zip(*((bucket.norm, bucket.ratio) for bucket in self.buckets), strict=True)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        self.gradients.observe(norm)
        # a step counts as clipped if one of its buckets is
        self.statistics.add("clipped", (torch.stack(ratios) < 1).any() * (1 - self.skip.flag))
        return Gradient(parts, norm)

    def close_bucket(self, bucket: Bucket) -> None:
        """Clip its gradients, and send it if nothing else travels with it."""
        bucket.close(self.threshold)
        if bucket is not self.buckets[-1]:
            bucket.message.start()
