import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hvdclip.data.labelled import Labelled
from hvdclip.data.libsvm import libsvm
from hvdclip.data.partition import contiguous, dirichlet, label_counts, similar

# LIBSVM files


def write(root, text, file="small"):
    (root / "libsvm").mkdir(exist_ok=True)
    path = root / "libsvm" / file
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_libsvm_fills_in_zeros_and_numbers_labels_by_their_value(tmp_path):
    write(tmp_path, "+1 1:0.5 3:-2e-1 \n-1\n +1\t2:.25\r\n-1 1:1. 4:7")
    samples = libsvm("small", root=str(tmp_path))
    assert samples.features.tolist() == [[0.5, 0, -0.2, 0], [0] * 4, [0, 0.25, 0, 0], [1, 0, 0, 7]]
    assert samples.labels.tolist() == [1, 0, 1, 0] and samples.classes == 2
    assert (samples.features.dtype, samples.labels.dtype) == (torch.float64, torch.int64)


def test_libsvm_orders_labels_as_numbers(tmp_path):
    write(tmp_path, "10 1:1\n9 1:1\n-2.5 1:1\n9.0 1:1\n")
    samples = libsvm("small", root=str(tmp_path))
    assert samples.labels.tolist() == [2, 1, 0, 1] and samples.classes == 3


@given(
    matrix=st.integers(1, 6).flatmap(
        lambda d: st.lists(
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=d, max_size=d), min_size=1, max_size=6
        )
    )
)
def test_libsvm_reads_back_what_was_written(matrix, tmp_path_factory):
    root = tmp_path_factory.mktemp("libsvm")
    rows = [" ".join(f"{k}:{value!r}" for k, value in enumerate(row, 1) if value) for row in matrix]
    write(root, "".join(f"{place % 2} {row}\n" for place, row in enumerate(rows)))
    samples = libsvm("small", root=str(root), features=len(matrix[0]))
    assert torch.equal(samples.features, torch.tensor(matrix, dtype=torch.float64))
    assert samples.labels.tolist() == [place % 2 for place in range(len(matrix))]


def test_libsvm_features_may_be_more_than_the_file_has_but_not_fewer(tmp_path):
    path = write(tmp_path, "1 3:1\n2 1:1\n")
    assert libsvm("small", root=str(tmp_path), features=5).features.shape == (2, 5)
    with pytest.raises(ValueError, match=f"features is 2; allowed: at least 3, the largest index in {path}"):
        libsvm("small", root=str(tmp_path), features=2)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1 2",
        "1:1 2:1",
        "1 2: 1",
        "1 2 :1",
        "1 2:1,3:1",
        "1 2:1:1",
        "1 2:x",
        "1 x:2",
        "1 2:nan",
        "inf 2:1",
        "1 2.0:1",
        "1 -2:1",
        "1 2:1_0",
        "1 1234567890:1",
        "1 2:1 # comment",
        "1 qid:1 2:1",
        "1 \u0662:1",
    ],
)
def test_libsvm_malformed_line_is_named(tmp_path, line):
    path = write(tmp_path, f"1 1:1\n{line}\n1 1:1\n")
    with pytest.raises(ValueError, match=r" is not a label and index:value pairs") as caught:
        libsvm("small", root=str(tmp_path))
    assert str(caught.value).startswith(f"{path}, line 2: {line!r} is not a label")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0:1", "index is 0; allowed: above 0, since indices count from 1"),
        ("1 3:1 3:1", "index is 3; allowed: above 3,"),
        ("1 2:1 5:1 4:1", "index is 4; allowed: above 5, since indices count from 1 and ascend"),
        ("1 2:1e999", "a number is too large for float64"),
        ("-1e999 2:1", "a number is too large for float64"),
    ],
)
def test_libsvm_numbers_out_of_range_are_named(tmp_path, line, message):
    path = write(tmp_path, f"1 7:1\n2\n{line}\n{line}\n")
    with pytest.raises(ValueError, match=message) as caught:
        libsvm("small", root=str(tmp_path))
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_libsvm_file_that_is_no_text_gives_one_short_line(tmp_path):
    write(tmp_path, b"\x1f\x8b\x00\xff" * 1000)
    with pytest.raises(ValueError, match="line 1: ") as caught:
        libsvm("small", root=str(tmp_path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_libsvm_empty_file_is_named(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"{path} is empty"):
        libsvm("small", root=str(tmp_path))


def test_libsvm_missing_file_is_named_on_one_line(tmp_path):
    for file in ("a9a", ""):
        with pytest.raises(FileNotFoundError) as caught:
            libsvm(file, root=str(tmp_path))
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'libsvm' / file} not found: put the LIBSVM text file {file} there")
        assert "\n" not in message and f"{tmp_path} is data.root" in message and "HVDCLIP_DATA" in message


def test_libsvm_root_comes_from_the_environment(tmp_path, monkeypatch):
    write(tmp_path, "1 1:1\n")
    monkeypatch.setenv("HVDCLIP_DATA", str(tmp_path))
    assert libsvm("small").features.tolist() == [[1]]
    monkeypatch.delenv("HVDCLIP_DATA")
    with pytest.raises(ValueError, match=r"small needs a data folder: set data.root or .* HVDCLIP_DATA"):
        libsvm("small")


@pytest.mark.parametrize(
    ("file", "shape", "counts", "smoothness", "start"),
    [
        ("mushrooms", (8124, 112), [3916, 4208], 2.786214, 15.721818),
        ("a9a", (32561, 123), [24720, 7841], 1.771920, 16.663993),
    ],
)
def test_libsvm_files_have_the_known_sizes_and_logistic_regression(file, shape, counts, smoothness, start):
    root = os.environ.get("HVDCLIP_DATA")
    if not root or not Path(root, "libsvm", file).is_file():
        pytest.skip(f"needs {file}: set HVDCLIP_DATA to the folder that holds libsvm/{file}")
    samples = libsvm(file)
    assert tuple(samples.features.shape) == shape and tuple(samples.labels.shape) == shape[:1]
    assert samples.labels.bincount().tolist() == counts and samples.classes == 2
    # L = ||A||^2 / 4m + 0.2 of logistic regression with the non-convex regulariser, and f at x = ones: the mean of the
    # losses of 10 ranks, which is not quite the samples' mean, since the last shard is larger
    largest = torch.linalg.eigvalsh(samples.features.T @ samples.features)[-1].item()
    assert largest / (4 * shape[0]) + 0.2 == pytest.approx(smoothness, abs=1e-6)
    losses = torch.nn.functional.softplus((1 - 2 * samples.labels) * samples.features.sum(dim=1))
    mean = np.mean([losses[shard].mean().item() for shard in contiguous(samples.labels, 10)])
    assert mean + 0.1 * shape[1] / 2 == pytest.approx(start, abs=1e-6)


def test_labelled_checksum_sees_every_feature_and_label():
    def samples(features=((1.0, 2.0), (3.0, 4.0)), labels=(0, 1)):
        return Labelled(torch.tensor(features, dtype=torch.float64), torch.tensor(labels))

    other = [
        samples(features=((1.0, 2.0), (3.0, 5.0))),
        samples(labels=(1, 0)),
        samples(features=((1.0, 2.0, 3.0, 4.0),)),
    ]
    assert samples().checksum == samples().checksum
    assert len({samples().checksum, *(changed.checksum for changed in other)}) == 4


# Shards

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80)
SHARES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]) | st.floats(0, 1)


def ranks_for(labels, data):
    return data.draw(st.integers(1, min(len(labels), 9)), label="ranks")


def balanced(samples=6000, classes=10, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(samples) % classes)


def assert_shared_out(shards, labels, ranks):
    assert len(shards) == ranks
    assert np.concatenate(shards).dtype == np.int64
    assert np.sort(np.concatenate(shards)).tolist() == list(range(len(labels)))
    assert all((np.diff(shard) > 0).all() for shard in shards)
    assert all(len(shard) for shard in shards)


def equal(first, second):
    return [shard.tolist() for shard in first] == [shard.tolist() for shard in second]


def distances(labels, shards):
    """Each shard's total variation distance from the label distribution of the whole."""
    whole = np.bincount(labels) / len(labels)
    rows = np.array(label_counts(labels, shards), dtype=float)
    return np.abs(rows / rows.sum(axis=1, keepdims=True) - whole).sum(axis=1) / 2


def test_contiguous_shards_leave_the_remainder_to_the_last():
    assert [shard.tolist() for shard in contiguous([0] * 8, 3)] == [[0, 1], [2, 3], [4, 5, 6, 7]]
    assert [len(shard) for shard in contiguous(np.zeros(8124), 10)] == [812] * 9 + [816]


@given(labels=LABELS, data=st.data())
def test_contiguous_shards_are_the_samples_in_file_order(labels, data):
    ranks = ranks_for(labels, data)
    shards = contiguous(labels, ranks)
    assert_shared_out(shards, labels, ranks)
    assert np.concatenate(shards).tolist() == list(range(len(labels)))
    assert {len(shard) for shard in shards[:-1]} <= {len(labels) // ranks}


@given(labels=LABELS, similarity=SHARES, seed=st.integers(0, 99), data=st.data())
def test_similar_shards_are_complete_equal_and_reproducible(labels, similarity, seed, data):
    ranks = ranks_for(labels, data)
    shards = similar(labels, ranks, similarity, seed)
    assert_shared_out(shards, labels, ranks)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert equal(shards, similar(labels, ranks, similarity, seed))


@given(labels=LABELS, seed=st.integers(0, 99), data=st.data())
def test_similarity_0_sorts_by_label_and_draws_nothing(labels, seed, data):
    ranks = ranks_for(labels, data)
    shards = similar(labels, ranks, 0, seed)
    values = [np.array(labels)[shard] for shard in shards]
    assert all(first.max() <= second.min() for first, second in pairwise(values))
    assert np.concatenate([np.sort(part) for part in values]).tolist() == sorted(labels)
    assert equal(shards, similar(labels, ranks, 0, seed + 1))


def test_similarity_0_keeps_file_order_within_a_label():
    assert [shard.tolist() for shard in similar([1, 0, 1, 0, 1], 2, 0, seed=3)] == [[1, 3], [0, 2, 4]]


def test_similarity_1_gives_each_rank_the_labels_of_the_whole():
    labels = np.sort(balanced())
    shards = similar(labels, 8, 1, seed=5)
    assert distances(labels, shards).max() < 0.08
    assert not equal(shards, similar(labels, 8, 1, seed=6))
    # i.i.d. in place too, not only in label
    assert all(2700 < shard.mean() < 3300 for shard in shards)


def test_similarity_is_the_share_of_every_label_on_ranks_that_sorting_would_not_give_it():
    labels = balanced(samples=6000, classes=10)
    counts = np.array(label_counts(labels, similar(labels, 10, 0.3, seed=2)))
    # 10 ranks and 10 equal labels: rank k has all of label k's sorted part, and a tenth of its i.i.d. part
    away = counts.sum(axis=0) - counts.diagonal()
    assert counts.sum(axis=1).tolist() == [600] * 10
    assert away.sum() / 6000 == pytest.approx(0.3 * 0.9, abs=0.01)
    assert away / 600 == pytest.approx([0.3 * 0.9] * 10, abs=0.03)


@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.7, 1.0])
def test_heterogeneity_falls_linearly_with_similarity(similarity):
    labels = balanced()
    shards = similar(labels, 10, similarity, seed=1)
    assert distances(labels, shards).mean() == pytest.approx(0.9 * (1 - similarity), abs=0.05)


def test_similar_remainders_go_to_different_ranks():
    # pools of 2 and 2 samples for 4 ranks: one each
    assert [len(shard) for shard in similar([0, 0, 0, 0], 4, 0.5, seed=0)] == [1, 1, 1, 1]


@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=80),
    ranks=st.integers(1, 4),
    alpha=st.floats(0.5, 1e12),
    seed=st.integers(0, 99),
)
def test_dirichlet_shards_are_complete_and_reproducible(labels, ranks, alpha, seed):
    shards = dirichlet(labels, ranks, alpha, seed)
    assert_shared_out(shards, labels, ranks)
    assert equal(shards, dirichlet(labels, ranks, alpha, seed))


@given(labels=LABELS, alpha=st.sampled_from([1e-300, 1e-3, 0.1]), seed=st.integers(0, 9), ranks=st.integers(1, 3))
def test_dirichlet_gives_every_rank_a_sample_or_says_why_not(labels, alpha, seed, ranks):
    try:
        assert_shared_out(dirichlet(labels, ranks, alpha, seed), labels, ranks)
    except ValueError as error:
        assert str(error).startswith(("ranks is", "alpha is"))


def test_large_alpha_is_near_equal_in_every_label():
    labels = balanced()
    counts = np.array(label_counts(labels, dirichlet(labels, 8, 1e6, seed=3)))
    assert np.abs(counts - 600 / 8).max() <= 2


def test_small_alpha_is_skewed_and_less_so_the_larger_it_is():
    labels = balanced(samples=5000, classes=100)
    distance = [distances(labels, dirichlet(labels, 8, alpha, seed=3)).mean() for alpha in (0.01, 0.1, 1, 10, 1000)]
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0.8 and distance[-1] < 0.05


def test_small_alpha_gives_most_of_each_label_to_one_rank():
    labels = balanced(samples=5000, classes=100)
    counts = np.array(label_counts(labels, dirichlet(labels, 8, 0.01, seed=3)))
    assert (counts.max(axis=0) / counts.sum(axis=0)).mean() > 0.9


def test_dirichlet_shares_have_the_distributions_variance():
    labels = balanced(samples=100_000, classes=500)
    shares = np.array(label_counts(labels, dirichlet(labels, 5, 2.0, seed=3))) / 200
    # Dirichlet(2, ..., 2) over 5 ranks: mean 1/5, variance (1/5)(4/5)/11
    assert shares.mean(axis=1) == pytest.approx([0.2] * 5, abs=0.02)
    assert shares.var() == pytest.approx(0.16 / 11, rel=0.1)


def test_dirichlet_draws_which_samples_of_a_label_a_rank_gets():
    shards = dirichlet(np.zeros(1000, dtype=int), 2, 1e6, seed=0)
    assert 350 < shards[0].mean() < 650 and not equal(shards, dirichlet(np.zeros(1000, dtype=int), 2, 1e6, seed=1))


def test_dirichlet_spreads_labels_of_one_sample_over_all_ranks():
    sizes = [len(shard) for shard in dirichlet(np.arange(1000), 5, 1e6, seed=0)]
    assert sum(sizes) == 1000 and min(sizes) > 150


def test_dirichlet_gives_up_where_ranks_stay_empty():
    with pytest.raises(
        ValueError, match=r"alpha is 1e-09; allowed: large enough that each of 8 ranks .* 50 samples of 2"
    ):
        dirichlet(np.arange(50) % 2, 8, 1e-9, seed=0)


def test_label_counts_have_a_row_for_each_rank_and_a_column_for_each_label():
    labels = torch.tensor([0, 3, 1, 0, 3, 3])
    assert label_counts(labels, contiguous(labels, 2)) == [[1, 1, 0, 1], [1, 0, 0, 2]]


def test_shards_of_a_tensor_are_those_of_its_array():
    labels = balanced(samples=100)
    for share_out in (contiguous, lambda y, n: similar(y, n, 0.3, seed=1), lambda y, n: dirichlet(y, n, 1.0, seed=1)):
        assert equal(share_out(labels, 3), share_out(torch.from_numpy(labels), 3))


def test_shards_are_the_same_on_all_machines():
    labels = np.arange(12) % 3
    assert [shard.tolist() for shard in similar(labels, 3, 0.5, seed=1)] == [[2, 3, 6, 9], [1, 4, 7, 10], [0, 5, 8, 11]]
    assert [shard.tolist() for shard in dirichlet(labels, 3, 1.0, seed=1)] == [
        [2, 4, 8],
        [5, 9, 11],
        [0, 1, 3, 6, 7, 10],
    ]


@pytest.mark.parametrize("similarity", [-0.1, 1.5, float("nan")])
def test_similarity_out_of_range_is_named(similarity):
    with pytest.raises(ValueError, match=f"^similarity is {similarity}; allowed: from 0 to 1$"):
        similar([0, 1], 1, similarity, seed=0)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), 1e308])
def test_alpha_out_of_range_is_named(alpha):
    with pytest.raises(ValueError) as caught:
        dirichlet([0, 1], 1, alpha, seed=0)
    assert str(caught.value) == f"alpha is {alpha}; allowed: above 0, at most 1e+12"


@pytest.mark.parametrize("ranks", [0, 4])
@pytest.mark.parametrize(
    "share_out", [contiguous, lambda y, n: similar(y, n, 0.5, seed=0), lambda y, n: dirichlet(y, n, 1.0, seed=0)]
)
def test_impossible_numbers_of_ranks_are_named(share_out, ranks):
    with pytest.raises(ValueError, match=f"^ranks is {ranks}; allowed: from 1 to the number of samples, which is 3$"):
        share_out([0, 1, 1], ranks)
