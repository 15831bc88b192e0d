"""Every algorithm, on simulated and on real ranks, against the published rules in NumPy."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cases import cases, expected, train
from launch import run_ranks

from hvdclip import simulate

CASES = list(cases())
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("ranks", [*(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (1, 3)), 4])
@pytest.mark.parametrize(("algorithm", "settings"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_simulated_ranks_follow_the_published_rule(ranks, algorithm, settings):
    x = simulate(lambda comm: train(comm, algorithm, settings), ranks)
    np.testing.assert_allclose(x, expected(ranks, algorithm, settings), **CLOSE)


@pytest.mark.ranks
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "ranks"), [("horovod", 2), ("mpi4py", 4)])
def test_real_ranks_follow_the_published_rule(backend, ranks, tmp_path):
    script = [sys.executable, str(Path(__file__).parent / "run_cases.py"), str(tmp_path), backend]
    run_ranks(script, ranks, timeout=500)
    x = [np.load(tmp_path / f"{rank}.npz") for rank in range(ranks)]
    for name, algorithm, settings in CASES:
        found = np.array([rank[name] for rank in x])
        np.testing.assert_allclose(found, expected(ranks, algorithm, settings), **CLOSE, err_msg=name)
        if ranks == 2:  # four simulated ranks have been held against the rule above
            simulated = simulate(lambda comm, chosen=(algorithm, settings): train(comm, *chosen), ranks)
            np.testing.assert_allclose(found, simulated, rtol=1e-12, atol=1e-12, err_msg=name)
        assert all(np.array_equal(rank[name][-1], x[0][name][-1]) for rank in x), f"{name}: ranks differ at the end"


def test_the_cases_clip_some_steps_and_not_others():
    """Else agreement would show nothing of the clip rule."""
    clipped = expected(2, "celgc", {"gamma": 0.15, "interval": 2})
    free = expected(2, "local_sgd", {"interval": 2})
    always = expected(2, "celgc", {"gamma": 1e-3, "interval": 2})
    assert not np.allclose(clipped, free) and not np.allclose(clipped[0, -1], always[0, -1])
