"""Problems with known answers from the methods' papers, on stacked, simulated and real ranks."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from follow import config, follow, problem_of
from known import CANCELLING, JOBS, LOGISTIC, QUARTICS, logistic, quartics
from launch import run_ranks

import hvdclip
from hvdclip import simulation
from hvdclip.simulation.stack import Stack

STAYS, REACHES = CANCELLING

needs_libsvm = pytest.mark.skipif(
    not Path(os.environ.get("HVDCLIP_DATA", ""), "libsvm/a9a").exists(),
    reason="HVDCLIP_DATA names no folder with libsvm/mushrooms and libsvm/a9a",
)


def test_clipped_gradients_that_cancel_stay_where_they_are_for_ever():
    for x in hvdclip.simulate(lambda comm: follow(STAYS, comm), 2):
        assert set(x[:, 0]) == {2.0}


def test_clip21_reaches_the_minimum_of_two_quadratics_that_cancel():
    for x in hvdclip.simulate(lambda comm: follow(REACHES, comm), 2):
        assert [x[k - 1, 0] for k in (1, 2, 3, 6)] == [2, 2, 1.75, 0.73828125]
        for k, printed in ((11, "1.751976e-01"), (21, "9.866e-03"), (41, "3.129e-05"), (60, "1.323e-07")):
            assert f"{x[k - 1, 0]:.{len(printed) - 6}e}" == printed


BIASED = {
    "clip_then_average": ({"max_norm": 1.0}, {1: 0.7, 2: 0.52, 3: 0.412, 10: 0.2545349632, 20: 0.2500274212, 60: 0.25}),
    "celgc": ({"max_norm": 1.0, "interval": 1}, {1: 0.7, 2: 0.52, 3: 0.412, 10: 0.2545349632, 60: 0.25}),
    "clip21": ({"tau": 1.0}, {1: 0.7, 2: 0.42, 3: 0.21, 10: 1.640625e-3, 20: 1.6022e-6, 60: 0.0}),
    "naive_parallel_clip": ({"max_norm": 1.0}, {1: 0.5, 2: 0.25, 3: 0.125, 10: 9.765625e-4, 20: 9.5367e-7, 60: 0.0}),
}


@pytest.mark.parametrize("algorithm", BIASED)
def test_the_bias_of_clipping_each_ranks_gradient(algorithm):
    settings, expected = BIASED[algorithm]
    job = ({"name": algorithm, "lr": 0.5} | settings, {"name": "biased"}, 60)
    x = follow(job, Stack(5)).mean(axis=1)[:, 0]
    np.testing.assert_allclose([x[k - 1] for k in expected], list(expected.values()), rtol=0, atol=2e-10)


@pytest.mark.parametrize(("c", "end"), [(0.25, 0.4375), (0.5, 0.375), (1.0, 0.25), (2.0, 0.0), (4.0, 0.0)])
def test_where_clipping_each_ranks_gradient_ends(c, end):
    x = follow(({"name": "clip_then_average", "lr": 0.5, "max_norm": c}, {"name": "biased"}, 200), Stack(5))
    assert x[-1].mean() == pytest.approx(end, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("heterogeneity", QUARTICS)
def test_the_two_quartics(heterogeneity):
    least, place, *expected = QUARTICS[heterogeneity]
    problem = problem_of({"name": "quartics", "heterogeneity": float(heterogeneity)}, 2)
    assert problem.minimum == pytest.approx(least, abs=1e-5)
    assert problem.value(torch.tensor([place])).item() == pytest.approx(least, abs=1e-5)
    gaps = {}
    for number, algorithm in enumerate(("celgc", "episode")):
        trace = simulation.run(config(quartics(algorithm, heterogeneity)), 2, seeds=20)
        gaps[algorithm] = trace.values[:, -100:].mean() - problem.minimum
        gap, clip_fraction = expected[2 * number : 2 * number + 2]
        allowed = 0.05 if (algorithm, heterogeneity) == ("celgc", 4) else 0.15 * gap
        assert gaps[algorithm] == pytest.approx(gap, abs=allowed)
        assert trace.clip_fraction == pytest.approx(clip_fraction, abs=0.005)
    assert gaps["episode"] < gaps["celgc"]


@needs_libsvm
@pytest.mark.slow
@pytest.mark.parametrize(("data", "algorithm", "printed"), LOGISTIC, ids=str)
def test_logistic_regression_on_ten_ranks(data, algorithm, printed):
    job = logistic(data, algorithm)
    problem = problem_of(job[1], 10)
    smoothness, start = {"mushrooms": (2.786214, 15.721818), "a9a": (1.771920, 16.663993)}[data]
    assert problem.smoothness == pytest.approx(smoothness, abs=5e-7)
    assert problem.value(problem.start).item() == pytest.approx(start, abs=5e-7)
    x = torch.from_numpy(follow((job[0] | {"lr": 1 / problem.smoothness}, *job[1:]), Stack(10))[:, 0])
    words = iter(printed.split())
    for k, squared_norm, value in zip((10, 100, 1000), words, words, strict=True):
        assert f"{problem.value(x[k - 1]).item():.6f}" == value
        found = problem.gradient_norm(x[k - 1]).item() ** 2
        assert found < 1e-25 if squared_norm == "-" else f"{found:.4e}" == squared_norm


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ranks"), [("cancelling", 2), ("quartics", 2), pytest.param("logistic", 4, marks=needs_libsvm)]
)
@pytest.mark.timeout(900)
def test_real_ranks_take_the_same_way(name, ranks, tmp_path):
    script = [sys.executable, str(Path(__file__).parent / "follow.py"), name, str(tmp_path)]
    run_ranks(script, ranks, timeout=800)
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(ranks)]
    for number, job in enumerate(JOBS[name]):
        stacked = follow(job, Stack(ranks))
        for rank in range(ranks):
            np.testing.assert_allclose(
                found[rank][f"arr_{number}"], stacked[:, rank], rtol=1e-12, atol=1e-12, err_msg=f"{job}, rank {rank}"
            )


PHASE = {
    "SGD": ({"name": "local_sgd", "lr": 5e-5}, {}, 854, 876),
    "clipped": (
        {"name": "ian_sgd", "lr": 0.6, "beta": 1.0, "delta": 15.0, "floor": 2025.0},
        {"second_batch": "same"},
        66,
        93,
    ),
    "normalized": ({"name": "normalized_sgd", "lr": 0.2}, {}, 10.2, 11.0),
    "IAN": (
        {"name": "ian_sgd", "lr": 0.3, "beta": 2 / 3, "a": 2.0, "delta": 15.0, "floor": 2025.0},
        {"second_batch": 4},
        8.20,
        8.26,
    ),
}


def test_phase_retrieval_starts_where_the_authors_start():
    problem = problem_of({"name": "phase_retrieval"}, 1)
    assert f"{problem.value(problem.z_0):.2f}" == "146142.67" and f"{problem.value(problem.start):.2f}" == "97398.69"


@pytest.mark.parametrize(("algorithm", "data", "least", "most"), PHASE.values(), ids=PHASE)
def test_phase_retrieval(algorithm, data, least, most):
    """The ranges are of four batch seeds; widened by a fifth they hold for others."""
    job = (algorithm, {"name": "phase_retrieval", "batch": 64} | data, 500)
    ends = simulation.run(config(job, evaluate_every_steps=500), 1, seeds=4).values[:, -1]
    assert (ends > 0.8 * least).all() and (ends < 1.2 * most).all(), ends
