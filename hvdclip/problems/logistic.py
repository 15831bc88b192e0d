"""Logistic regression with a non-convex regulariser on LIBSVM files.

Khirirat, Gorbunov, Horvath, Islamov, Karray, Richtarik, Clip21, 2023, section 6.
"""

from __future__ import annotations

from functools import cache, cached_property, lru_cache
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from hvdclip.data.labelled import Labelled
from hvdclip.data.libsvm import libsvm
from hvdclip.data.partition import LARGEST_ALPHA, label_counts, share_out

from .base import Count, NotNegative, Problem


@cache
def _read(file: str, root: str | None) -> Labelled:
    return libsvm(file, root)


class _Shards(NamedTuple):
    """The ranks' rows b_j a_j side by side (ranks, most, d), the shorter shards filled up with rows of weight 0."""

    rows: Tensor
    weights: Tensor
    sizes: Tensor
    table: list[list[int]]

    @staticmethod
    @lru_cache(4)  # simulated ranks share one copy
    def of(
        file: str, root: str | None, ranks: int, partition: str, similarity: float, alpha: float, seed: int
    ) -> _Shards:
        read = _read(file, root)
        labels = read.labels.numpy()
        shards = share_out(labels, ranks, partition, similarity, alpha, seed)
        signed = (2.0 * read.labels - 1)[:, None] * read.features
        sizes = torch.tensor([len(shard) for shard in shards])
        rows = torch.zeros(ranks, int(sizes.max()), read.features.shape[1], dtype=torch.float64)
        weights = torch.zeros(ranks, int(sizes.max()), dtype=torch.float64)
        for rank, shard in enumerate(shards):
            rows[rank, : len(shard)] = signed[torch.from_numpy(shard)]
            weights[rank, : len(shard)] = 1 / len(shard)
        return _Shards(rows, weights, sizes, label_counts(labels, shards))


class Logistic(Problem):
    """f_i = mean over rank i's samples of log(1 + exp(-b_j a_j.x)) + regularizer * sum_k x_k^2/(1 + x_k^2), x_0 = ones.

    Of the file's two labels the smaller one is b = -1. The samples are divided in file order (`contiguous`), or with
    `similarity`, or by a Dirichlet distribution of each label's shares (`alpha`). Without `batch` gradients are exact;
    otherwise they are of that many samples, drawn with replacement.
    """

    def __init__(
        self,
        ranks: int,
        file: str = "mushrooms",
        root: str | None = None,
        regularizer: NotNegative = 0.1,
        partition: Literal["contiguous", "similar", "dirichlet"] = "contiguous",
        similarity: Annotated[float, Field(ge=0, le=1)] = 1.0,
        alpha: Annotated[float, Field(gt=0, le=LARGEST_ALPHA)] = 1.0,
        partition_seed: Annotated[int, Field(ge=0)] = 0,
        batch: Count | None = None,
    ):
        super().__init__(ranks)
        self.batch, self.regularizer = batch, regularizer
        read = _read(file, root)
        if read.classes != 2:
            raise ValueError(f"file is {file!r} with {read.classes} labels; allowed: files of two labels")
        self._read = read
        shards = _Shards.of(file, root, ranks, partition, similarity, alpha, partition_seed)
        self._rows, self._weights, self.sizes, self._table = shards
        self.start = torch.ones(read.features.shape[1], dtype=torch.float64)

    @cached_property
    def smoothness(self) -> float:
        """L, for f as the mean over all samples: ||A||^2/(4m) + 2 regularizer."""
        norm = float(torch.linalg.matrix_norm(self._read.features, 2))
        return norm**2 / (4 * len(self._read.labels)) + 2 * self.regularizer

    @property
    def width(self) -> int:
        return self.batch or 0

    def losses(self, x: Tensor, ranks: slice, draws: Tensor | None) -> Tensor:
        rows, weights = self._rows[ranks], self._weights[ranks]
        if draws is None:
            margins = torch.einsum("nmd,...nd->...nm", rows, x)
            return (weights * softplus(-margins)).sum(dim=-1) + self._penalty(x)
        chosen = (draws * self.sizes[ranks][:, None]).long()
        batch = rows[torch.arange(len(rows))[:, None], chosen]
        return softplus(-torch.einsum("...nbd,...nd->...nb", batch, x)).mean(dim=-1) + self._penalty(x)

    def value(self, x: Tensor) -> Tensor:
        of_all = x[..., None, :].expand(*x.shape[:-1], self.ranks, -1)
        return self.losses(of_all, slice(None), None).mean(dim=-1)

    def shard_size(self, rank: int) -> int:
        return int(self.sizes[rank])

    def table(self) -> list[list[int]]:
        return self._table

    def _penalty(self, x: Tensor) -> Tensor:
        return self.regularizer * (x**2 / (1 + x**2)).sum(dim=-1)
