"""The norm by which steps are clipped, against float64."""

import math

import pytest
import torch

from hvdclip.flat import Space

SIZES = (1000, 32768, 100_003, 10**6, 10**7)


def norm(*tensors):
    space = Space([torch.nn.Parameter(torch.empty_like(t, memory_format=torch.preserve_format)) for t in tensors])
    return space.gradient(tensors).norm()


def expected(*tensors):
    return math.sqrt(sum(float(piece.double().square().sum()) for t in tensors for piece in t.flatten().split(10**7)))


def drawn(size, scale=1.0, dtype=torch.float32):
    return (torch.randn(size, generator=torch.Generator().manual_seed(size)) * scale).to(dtype)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [*SIZES, pytest.param(10**8, marks=pytest.mark.slow)])
def test_a_norm_is_exact(size, threads):
    entries = drawn(size)
    # random, all alike (errors of one sign), and one huge entry
    for g in (entries, torch.full_like(entries, 0.3), torch.cat([torch.tensor([1e4]), entries[1:]])):
        found = norm(g)
        assert found.dtype == torch.float32 and found.item() == pytest.approx(expected(g), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-23, 1e-19, 1e-13, 1e-6, 1e6, 1e15, 1e25, 1e32])
def test_a_norm_of_any_scale_is_exact(scale):
    g = drawn(100_003, scale)
    assert norm(g).item() == pytest.approx(expected(g), rel=1e-6)


def test_of_many_tensors_and_dtypes_there_is_one_norm():
    tensors = [
        *(drawn(size).view(-1, 5) for size in (10, 50_000, 500_000)),
        *(drawn(size, dtype=torch.float64) for size in (7, 70_000)),
        *(drawn(size, 100, dtype=torch.float16) for size in (7, 70_000)),
        drawn(400_000, dtype=torch.bfloat16),
        drawn(640_000).view(100, 64, 10, 10).to(memory_format=torch.channels_last),
        drawn(640_000).view(800, 800).T,
        torch.empty(0),
    ]
    found = norm(*tensors)
    assert found.dtype == torch.float64 and found.item() == pytest.approx(expected(*tensors), rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_of_what_is_not_finite_is_not_finite(bad):
    g = drawn(100_003)
    g[70_000] = bad
    assert not norm(g).isfinite()
    assert norm(torch.zeros(100_003)).item() == 0.0
