"""Jobs from configurations, in this process."""

import pytest
import torch

from hvdclip.comm import SingleRank
from hvdclip.config import check
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

LANGUAGE = {
    "algorithm": {"name": "spider_clip", "lr": 1.0, "gamma": 0.1, "anchor_every": 3, "anchor_batches": 2},
    "model": {"name": "awd_lstm", "embedding": 8, "hidden": 12, "layers": 2},
    "data": {"name": "stdlib", "batch": 2, "bptt": 8, "evaluation_columns": 600},
    "train": {"steps": 4},
}


def trainer():
    made = Trainer(Job(check(LANGUAGE), SingleRank()))
    made.model.train()
    return made


def gradient(made, again=False):
    made._closure(again=again)
    return torch.cat([p.grad.flatten() for p in made.model.parameters()])


@pytest.mark.slow
def test_a_batch_asked_for_again_gives_the_same_gradient():
    """Dropout and the hidden state it starts from included; and the text goes on as if it had been asked for once."""
    made = trainer()
    first = gradient(made)
    assert all(torch.equal(gradient(made, again=True), first) for _ in range(2))
    second = gradient(made)
    other = trainer()
    assert torch.equal(gradient(other), first) and torch.equal(gradient(other), second)
    assert not torch.equal(second, first)


@pytest.mark.slow
def test_a_batch_asked_for_again_is_counted_once():
    made = trainer()
    for _ in range(4):
        made.step()
    # anchors at steps 1 and 4 take two batches each, steps 2 and 3 one
    assert made.stream.batches == 6


def test_int8_rounds_by_the_seed():
    """Nothing else in this run depends on it."""

    def end(seed):
        job = {
            "algorithm": {"name": "local_sgd", "lr": 0.1, "compression": "int8"},
            "model": "point",
            "data": {"name": "quadratics", "noise": 0.0},
            "train": {"steps": 3, "seed": seed},
        }
        made = Trainer(Job(check(job), SingleRank()))
        for _ in range(3):
            made.step()
        return made.optimizer.x.flats[0]

    assert torch.equal(end(1), end(1)) and not torch.equal(end(1), end(2))


def test_initial_model_and_order_of_data_are_the_seeds():
    states = [trainer().model.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
