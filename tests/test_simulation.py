"""hvdclip simulate: stacked ranks, ranks that take turns, and real ranks are one and the same."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, OF_ONE_LOSS, settings_of
from command import hvdclip
from launch import run_ranks

from hvdclip import simulation
from hvdclip.config import ConfigError, check
from hvdclip.simulation.run import one_by_one, stacked, vectorises
from hvdclip.simulation.trace import Trace

IN_TURNS = {name for name, row in ALGORITHMS.items() if row.in_turns}


def config(name, steps=30, **train):
    return check(
        {
            "algorithm": {"name": name, "lr": 0.1, "weight_decay": 0.01} | settings_of(name, interval=4),
            "model": "point",
            "data": {"name": "quadratics", "dimension": 5, "noise": 0.5, "spread": 1.0},
            "train": {"steps": steps, "evaluate_every_steps": 8} | train,
        }
    )


def same(one, other):
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_array_equal(one.rounds, other.rounds)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-12)
    np.testing.assert_allclose(one.gradient_norms, other.gradient_norms, rtol=1e-10)
    assert one.clip_fraction == pytest.approx(other.clip_fraction) and one.bytes == other.bytes
    assert one.bound == pytest.approx(other.bound) if other.bound else one.bound is None
    assert one.drift == pytest.approx(other.drift, rel=1e-5) if other.drift else not one.drift


def test_all_are_vectorised_but_those_that_cannot_be():
    assert {name for name in OF_ONE_LOSS if not vectorises(config(name))} == IN_TURNS


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", sorted(set(OF_ONE_LOSS) - IN_TURNS))
def test_stacked_ranks_go_the_way_of_ranks_that_take_turns(name, ranks):
    same(stacked(config(name), ranks, 2), one_by_one(config(name), ranks, 2))


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "celgc", "gamma": 0.05, "momentum": 0.9, "nesterov": True},
        {"name": "celgc", "gamma": 0.05, "momentum": 0.5, "norm_of": "update"},
        {"name": "celgc", "gamma": 0.05, "inner": "AdamW"},
        {"name": "episode", "gamma": 0.05, "momentum": 0.9},
        {"name": "local_sgd", "outer": "nesterov", "outer_lr": 0.7},
        {"name": "local_sgd", "outer": "adam", "outer_lr": 0.01},
        {"name": "scaffold", "option": "I"},
    ],
    ids=str,
)
def test_stacked_ranks_with_other_settings(rule):
    given = check(
        {
            "algorithm": rule | {"lr": 0.05, "interval": 3},
            "model": "point",
            "data": {"name": "quadratics", "noise": 0.5, "spread": 1.0},
            "train": {"steps": 20, "evaluate_every_steps": 3, "milestones": [1], "decay": 0.5},
        }
    )
    same(stacked(given, 3, 2), one_by_one(given, 3, 2))


def test_schedules_move_on_with_the_epochs():
    given = config("local_sgd", steps=1012, milestones=[1], decay=0.1)
    same(stacked(given, 2, 1), one_by_one(given, 2, 1))


def test_what_is_each_ranks_own_is_not_stacked():
    noisy = {"name": "norm_ec", "alpha": 0.1, "beta": 0.5, "noise": 0.1}
    each = [noisy, {"name": "local_sgd", "on_nonfinite": "skip"}]
    if hasattr(torch.optim, "Adafactor"):  # since torch 2.5
        each.append({"name": "local_sgd", "inner": "Adafactor"})
    for extra in each:
        given = {"algorithm": {"lr": 0.1} | extra, "model": "point", "data": "quadratics", "train": {"steps": 1}}
        assert not vectorises(check(given))


def test_a_divergence_is_one_line():
    line = ["configs/quartics.yaml", "algorithm.lr=5", "algorithm.gamma=1000", "train.steps=40"]
    done = hvdclip("simulate", *line, check=False)
    assert done.returncode == 1 and re.match(r"hvdclip: N = 2: the gradient is not finite on .* rank", done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.ranks
def test_real_ranks_train_every_algorithm_to_the_same_values(tmp_path):
    script = Path(__file__).parent / "algorithms_alike.py"
    run_ranks([sys.executable, str(script), str(tmp_path / "found.json")], 2, timeout=200)
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == set(OF_ONE_LOSS)
    for name, rows in found.items():
        trace = simulation.run(config(name), 2)
        steps, values, norms = zip(*rows, strict=True)
        assert list(steps) == list(trace.steps), name
        np.testing.assert_allclose(trace.values[0], values, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(trace.gradient_norms[0], norms, rtol=1e-9, err_msg=name)


def test_a_gradient_that_is_not_finite_names_the_rank():
    given = check(
        {
            "algorithm": {"name": "local_sgd", "lr": 1e8},
            "model": "point",
            "data": {"name": "quartics", "heterogeneity": 1},
            "train": {"steps": 50},
        }
    )
    with pytest.raises(FloatingPointError, match="not finite on simulated rank"):
        simulation.run(given, 2)


def trace(ranks, interval, norms):
    norms = np.array(norms, dtype=float)
    steps = np.arange(1, norms.shape[1] + 1) * 10
    return Trace(ranks, interval, steps, steps // 10, norms, norms, 0.5, 0.1, 1.0, 100)


def test_speed_up_is_the_slope_of_steps_over_ranks():
    one = trace(1, 4, [[8, 4, 2, 1, 0.9, 0.5, 0.4, 0.3]])
    two = trace(2, 4, [[4, 1, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3]])
    four = trace(4, 4, [[1, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3]])
    assert [t.reached(1.0) for t in (one, two, four)] == [(40, 4), (20, 2), (10, 1)]
    assert simulation.speed_up([one, two, four], 1.0) == (pytest.approx(-1), 4)
    assert simulation.speed_up([one], 1.0) is None and one.reached(0.1) is None


def test_a_target_is_reached_by_the_mean_of_the_squares():
    assert trace(1, 1, [[4, 1, 0], [4, 1.2, 0]]).reached(1.0) == (30, 3)


def test_the_command(tmp_path):
    line = ["simulate", "configs/quadratics.yaml", "train.steps=240", "--ranks", "64,256,1024", "--intervals", "1,4"]
    options = ["--seeds", "4", "--target", "0.3", "--scale-lr", "--out", str(tmp_path)]
    shown = hvdclip(*line, *options).stdout
    rows = [row.split() for row in shown.splitlines() if re.match(r" *(64|256|1,024) ", row)]
    assert [row[:2] for row in rows] == [[n, i] for i in "14" for n in ("64", "256", "1,024")]
    assert -1.15 < float(re.search(r"slope (-?[\d.]+)", shown)[1]) < -0.8
    assert {file.name for file in tmp_path.iterdir()} == {"simulation.png", "simulation.svg"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["configs/quartics.yaml", "--ranks", "3"], "quartics needs an even number of ranks, but there are 3"),
        (["configs/quartics.yaml", "--ranks", "0"], "--ranks is '0'; allowed: integers from 1, separated by commas"),
        (["configs/quartics.yaml", "--ranks", "two"], "--ranks is 'two'; allowed"),
        (["configs/cancelling.yaml", "--intervals", "2"], "algorithm.interval: unknown setting"),
        (["configs/quartics.yaml", "data.noise=-1"], "data.noise is -1; allowed: greater than or equal to 0"),
        (["configs/quartics.yaml", "model=lstm"], "model.name is 'lstm'; allowed with data quartics: point"),
        (
            ["configs/quickstart.yaml", "model=point"],
            "allowed with data stdlib: awd_lstm, gpt, lstm",
        ),
        (["configs/mushrooms.yaml", "data.root=/nowhere"], "/nowhere/libsvm/mushrooms not found"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    done = hvdclip("simulate", *arguments, check=False)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_point_goes_with_problems_only():
    with pytest.raises(ConfigError, match=r"allowed with your own data: my\.module:build"):
        check(
            {
                "algorithm": {"name": "local_sgd", "lr": 1.0},
                "model": "point",
                "data": "os:getcwd",
                "train": {"steps": 1},
            }
        )
