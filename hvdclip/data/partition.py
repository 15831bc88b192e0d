"""How labelled samples are shared out over ranks: their numbers, one array per rank, every sample on one rank."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 1000
LARGEST_ALPHA = 1e12  # shares are then equal to six digits; NumPy's sums overflow far above


def share_out(
    labels: ArrayLike, ranks: int, partition: str, similarity: float = 1.0, alpha: float = 1.0, seed: int = 0
) -> list[np.ndarray]:
    """The shards of `contiguous`, `similar` or `dirichlet`, as the name says."""
    if partition == "contiguous":
        return contiguous(labels, ranks)
    return similar(labels, ranks, similarity, seed) if partition == "similar" else dirichlet(labels, ranks, alpha, seed)


def contiguous(labels: ArrayLike, ranks: int) -> list[np.ndarray]:
    """Equal shards (int64 sample numbers, ascending) in file order, the remainder to the last rank.

    ValueError if there are more ranks than samples.
    """
    samples = len(np.asarray(labels))
    _check_ranks(ranks, samples)
    return np.split(np.arange(samples), samples // ranks * np.arange(1, ranks))


def similar(labels: ArrayLike, ranks: int, similarity: float, seed: int) -> list[np.ndarray]:
    """Shards (int64 sample numbers, ascending) of which a share `similarity` is i.i.d. and the rest sorted by label.

    That share of every label, rounded, goes to a shuffled pool, the rest to a pool sorted by label, each label in file
    order; each rank takes a contiguous slice of both. Sizes differ by at most 1, in each pool and in all. Similarity 1
    is i.i.d.; at 0 nothing is random. ValueError for a similarity outside 0 to 1 or more ranks than samples.
    Source: Karimireddy et al. (2020), Crawshaw et al. (2023).
    """
    if not 0 <= similarity <= 1:
        raise ValueError(f"similarity is {similarity}; allowed: from 0 to 1")
    groups = _by_label(labels)
    _check_ranks(ranks, sum(map(len, groups)))
    rng = np.random.default_rng(seed)
    mixed, kept = [], []
    for group in groups:
        drawn, count = rng.permutation(group), round(similarity * len(group))
        mixed.append(drawn[:count])
        kept.append(np.sort(drawn[count:]))
    # One remainder goes to the first ranks, one to the last: if both went to the first, the last might have no sample.
    first = np.array_split(rng.permutation(np.concatenate(mixed)), ranks)
    last = np.array_split(np.concatenate(kept)[::-1], ranks)[::-1]
    return [np.sort(np.concatenate(parts)) for parts in zip(first, last, strict=True)]


def dirichlet(labels: ArrayLike, ranks: int, alpha: float, seed: int) -> list[np.ndarray]:
    """Shards (int64 sample numbers, ascending) with each label's shares over ranks drawn from Dirichlet(alpha, ...).

    Shares become counts by systematic sampling: rounded up or down, on average right. Shards differ in size; none is
    empty: shares are drawn again until each rank has a sample. ValueError if alpha is not positive, for more ranks than
    samples, or if 1000 draws all left a rank empty (a small alpha, few labels). Source: Yurochkin et al. (2019).
    """
    if not 0 < alpha <= LARGEST_ALPHA:
        raise ValueError(f"alpha is {alpha}; allowed: above 0, at most {LARGEST_ALPHA:g}")
    groups = _by_label(labels)
    _check_ranks(ranks, sum(map(len, groups)))
    rng = np.random.default_rng(seed)
    cuts = _cuts(np.array([len(group) for group in groups]), ranks, alpha, rng)
    pieces = [np.split(rng.permutation(group), places) for group, places in zip(groups, cuts, strict=True)]
    return [np.sort(np.concatenate(parts)) for parts in zip(*pieces, strict=True)]


def label_counts(labels: ArrayLike, shards: Sequence[np.ndarray]) -> list[list[int]]:
    """How often each shard has each label, for labels 0 to C - 1: one row per rank, C columns."""
    values = np.asarray(labels)
    return [np.bincount(values[shard], minlength=values.max() + 1).tolist() for shard in shards]


def _cuts(counts: np.ndarray, ranks: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Where to cut each label's samples, (labels, ranks - 1), so that every rank gets a sample."""
    for _ in range(DRAWS):
        shares = rng.dirichlet(np.full(ranks, alpha), size=len(counts))
        bounds = np.cumsum(shares, axis=1)[:, :-1] * counts[:, None]
        # A random offset for each label: plain rounding would give labels of one sample all to the middle rank.
        bounds = np.ceil(bounds - rng.random((len(counts), 1))).astype(np.int64)
        cuts = np.clip(bounds, 0, counts[:, None])
        sizes = np.diff(cuts, axis=1, prepend=0, append=counts[:, None]).sum(axis=0)
        if sizes.min() > 0:
            return cuts
    raise ValueError(
        f"alpha is {alpha}; allowed: large enough that each of {ranks} ranks gets some of the {counts.sum()} samples "
        f"of {len(counts)} labels, which {DRAWS} draws did not reach"
    )


def _by_label(labels: ArrayLike) -> list[np.ndarray]:
    """Each label's sample numbers in file order, smaller labels first."""
    values = np.asarray(labels)
    counts = np.unique(values, return_counts=True)[1]
    return np.split(np.argsort(values, kind="stable"), np.cumsum(counts)[:-1])


def _check_ranks(ranks: int, samples: int) -> None:
    if not 1 <= ranks <= samples:
        raise ValueError(f"ranks is {ranks}; allowed: from 1 to the number of samples, which is {samples}")
