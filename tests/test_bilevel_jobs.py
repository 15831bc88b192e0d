"""Bilevel jobs by YAML: problems, digits with wrong labels, models and loaders of one's own; saved and gone on from."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command import hvdclip
from conftest import PROJECT
from launch import HVDCLIP, run_ranks
from test_state import check_round_trip

from hvdclip import simulation
from hvdclip.comm import SingleRank
from hvdclip.config import ConfigError, check
from hvdclip.data.cleaning import cleaning
from hvdclip.models.cleaning import Cleaning
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

needs_mnist = pytest.mark.skipif(
    not Path(os.environ.get("HVDCLIP_DATA", ""), "MNIST").exists(),
    reason="HVDCLIP_DATA names no folder with MNIST/raw",
)
SLIP = {"name": "slip", "lr": 0.05, "lower_lr": 0.1, "lower": "shared", "interval": 4}


def job(algorithm=(), data="bilevel_quadratic", model="point", **train):
    return {
        "algorithm": SLIP | dict(algorithm),
        "model": model,
        "data": data if isinstance(data, dict) else {"name": data},
        "train": {"steps": 27, "evaluate_every_steps": 8, "seed": 3} | train,
        "log": {"every_steps": 4},
    }


OWN = {"model": "bilevel_job:build", "data": "bilevel_job:loaders"}
UNLIKE = {"name": "bilevel_quadratic", "spread": 0.5, "stretch": 0.3}


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ({"warm_start": 10}, {"data": UNLIKE}),
        ({"lower": "own"}, {"data": UNLIKE}),
        ({"name": "accbo", "interval": 8}, {"data": UNLIKE}),
        ({"name": "accbo", "lower": "own"}, OWN),
        ({"name": "bo_rep"}, OWN),
        ({"name": "adambo", "warm_start": 0}, OWN),
    ],
)
@pytest.mark.filterwarnings("ignore:estimator neumann")
def test_a_job_goes_on_to_the_bit(algorithm, more):
    check_round_trip(job(algorithm, **more))


def test_a_model_and_loaders_of_ones_own():
    trainer = Trainer(Job(check(job(steps=200, evaluate_every_steps=50, **OWN)), SingleRank()))
    memory = Memory()
    trainer.train(memory, Silent())
    first, *_, last = memory.rows
    assert last["loss"] < 0.01 * first["loss"] and last["root"] == pytest.approx(last["loss"] ** 0.5, rel=0.5)
    assert memory.lines[-1]["lower_loss"] > 0
    assert {group["role"] for group in trainer.optimizer.param_groups} == {"upper", "lower"}


@pytest.mark.slow
@pytest.mark.parametrize(("lower", "least", "gap"), [("shared", 0.670394736842, 5e-3), ("own", 0.947265290184, 5e-4)])
def test_simulated_ranks_approach_the_minimum(lower, least, gap):
    clipped = {"lower": lower, "upper_step": "clipped", "gamma": 0.05, "lr": 0.1, "lower_lr": 0.25}
    trace = simulation.run(check(job(clipped, data=UNLIKE, steps=1203, evaluate_every_steps=400)), 4)
    assert trace.values[0, -1] == pytest.approx(least, abs=gap)


def test_other_algorithms_take_the_problem_as_one_of_x_alone():
    given = job(data=UNLIKE) | {"algorithm": {"name": "local_sgd", "lr": 0.2}}
    given["train"] |= {"steps": 500}
    assert simulation.run(check(given), 4).values[0, -1] == pytest.approx(0.670394736842, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            job(data="quadratics"),
            "data.name is 'quadratics'; allowed with slip: bilevel_cosh, bilevel_quadratic, cleaning",
        ),
        (job(data="cleaning"), "model.name is 'point'; allowed with data cleaning: cleaning"),
        (
            job(data="cleaning", model="cleaning") | {"algorithm": {"name": "celgc", "lr": 0.1, "gamma": 1.0}},
            "data.name is 'cleaning'; allowed with celgc: other data",
        ),
        (job(steps=None, epochs=2), "train: slip reads two kinds of batches; give steps and evaluate_every_steps"),
        (job(accumulate=2, **OWN), "train.accumulate is 2; allowed with slip: 1"),
        (job({"compression": "int8"}), "compression is 'int8'; allowed: none, or lower own"),
        (job(precision="fp16", **OWN), "train.precision is fp16; allowed with slip"),
    ],
)
def test_what_does_not_fit_is_a_line(given, line):
    with pytest.raises(ConfigError) as refused:
        check(given)
    assert [each for each in str(refused.value).splitlines() if line in each], str(refused.value)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (OWN | {"model": "bilevel_job:incomplete"}, "has no upper, lower, upper_loss, lower_loss, evaluate; allowed"),
        (OWN | {"data": "bilevel_job:two_loaders"}, 'allowed for a bilevel algorithm: a dictionary {"upper"'),
    ],
)
def test_what_of_ones_own_does_not_fit_is_a_line(more, line):
    with pytest.raises(ValueError, match="allowed") as refused:
        Trainer(Job(check(job(**more)), SingleRank()))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_bilevel_job_by_the_command(tmp_path):
    hvdclip(
        "train", "configs/bilevel_cosh.yaml", "train.steps=40", "train.evaluate_every_steps=20", "--run-dir", tmp_path
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["algorithm"] == "slip" and summary["final"]["exact"]["step"] == 40
    assert all("lower_loss" in json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


# digits with wrong labels


@needs_mnist
def test_the_digits_that_are_drawn():
    data = cleaning()
    assert data.train.labels[:10].tolist() == [5, 1, 3, 8, 4, 2, 7, 8, 9, 3]
    generator = np.random.default_rng(0)
    places = generator.permutation(60000)[:2200]
    true = cleaning(flipped=0.0).train.labels
    assert true[:10].tolist() == [5, 4, 3, 8, 4, 2, 7, 8, 9, 5]
    assert int((~data.right).sum()) == 1000 and torch.equal(data.train.labels == true, data.right)
    assert len(places) == 2200 and len(data.validation.labels) == 200 and len(data.test.labels) == 10_000
    assert data.train.features.min() >= 0 and data.train.features.max() == 1
    with pytest.raises(ValueError, match="train is 60000 and validation 200; allowed: together up to 60000"):
        cleaning(train=60000)


def test_the_two_losses_of_the_digits():
    model = Cleaning(3, features=2, classes=2)
    batch = torch.ones(2, 2), torch.tensor([0, 1]), torch.tensor([0, 2])
    assert model.upper_loss(batch).item() == pytest.approx(np.log(2))
    assert model.lower_loss(batch).item() == pytest.approx(np.log(2) / 2)


def without_weights(samples, weight):
    """Test accuracy of 500 gradient steps of the regression on these samples, all of one weight."""
    model, test = Cleaning(len(samples.labels)), cleaning().test
    batch = samples.features, samples.labels, torch.arange(len(samples.labels))
    for _ in range(500):
        loss = 2 * weight * model.lower_loss(batch) + 5e-4 * sum(
            p.square().sum() for p in model.regression.parameters()
        )
        for p, g in zip(
            model.regression.parameters(), torch.autograd.grad(loss, model.lower.parameters()), strict=True
        ):
            p.data.sub_(0.1 * g)
    return model.evaluate((test.features, test.labels, None))["accuracy"].item()


@needs_mnist
@pytest.mark.slow
def test_the_regression_without_weights():
    data = cleaning()
    assert without_weights(data.train, 0.5) == pytest.approx(0.8067, abs=0.001)
    assert without_weights(data.validation, 1.0) == pytest.approx(0.8225, abs=0.001)


def final(folder):
    return json.loads((folder / "summary.json").read_text())["final"]["test"]


def weighs_well(row, accuracy):
    assert row["accuracy"] == pytest.approx(accuracy, abs=0.003)
    assert row["weight_right"] > 0.7 and row["weight_wrong"] < 0.2
    assert row["accuracy"] > 0.8225 + 0.015, "above the clean digits alone"


@needs_mnist
@pytest.mark.slow
def test_slip_tells_right_labels_from_wrong_ones(tmp_path):
    hvdclip("train", "configs/cleaning.yaml", "--run-dir", tmp_path)
    row = final(tmp_path)
    weighs_well(row, 0.8510)
    close = {"weight_right": 0.831, "weight_wrong": 0.111, "told_apart": 0.862}
    assert {key: row[key] for key in close} == pytest.approx(close, abs=2e-3)


@needs_mnist
@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_real_ranks_do_so_together(tmp_path):
    run_ranks([HVDCLIP, "train", str(PROJECT / "configs/cleaning.yaml"), "--run-dir", str(tmp_path)], 4, timeout=800)
    row = final(tmp_path)
    weighs_well(row, 0.8521)
    close = {"weight_right": 0.821, "weight_wrong": 0.125, "told_apart": 0.872}
    assert {key: row[key] for key in close} == pytest.approx(close, abs=2e-3)
