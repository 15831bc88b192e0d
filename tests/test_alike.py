"""Ranks that differ in what must be the same stop together, with one line."""

import pytest
import torch
from torch import nn

import hvdclip
from hvdclip.methods import Disagreement

LOCAL = {"celgc": {"gamma": 0.1, "interval": 4}, "local_sgd": {"interval": 2, "overlap": "delayed"}}
GRADIENTS = {"naive_parallel_clip": {"gamma": 0.1}, "clip21": {"tau": 1.0}}


def one_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(4, 3)).pow(2).mean().backward()
    optimizer.step()


def ends_of_ranks(fn, ranks=2):
    """What ended each of the simulated ranks."""

    def one(comm):
        try:
            fn(comm)
        except Exception as error:
            return error
        return None

    return hvdclip.simulate(one, ranks)


@pytest.mark.parametrize("algorithm", LOCAL | GRADIENTS)
def test_unlike_steps_are_named_on_every_rank(algorithm):
    """Rank 1 has taken up a state of 3 steps more."""

    def train(comm):
        model = nn.Linear(3, 1)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, **(LOCAL | GRADIENTS)[algorithm])
        if comm.rank == 1:
            optimizer.progress.steps = 3
        for _ in range(8):
            one_step(model, optimizer)

    errors = ends_of_ranks(train)
    assert all(isinstance(error, Disagreement) for error in errors)
    assert len(set(map(str, errors))) == 1 and "\n" not in str(errors[0])
    steps = {"celgc": (4, 7), "local_sgd": (2, 5)}.get(algorithm, (1, 4))
    assert f"different steps in one average: {steps[0]} on rank 0, {steps[1]} on rank 1" in str(errors[0])
    assert "optimizer.join()" in str(errors[0])


@pytest.mark.parametrize("algorithm", LOCAL | GRADIENTS)
def test_learning_rates_that_differ_are_named(algorithm):
    """ReduceLROnPlateau on each rank's own loss."""

    def train(comm, settings):
        model = nn.Linear(3, 1)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, **settings)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        for step in range(8):
            one_step(model, optimizer)
            scheduler.step(float(step) if comm.rank else 9.0 - step)  # rank 1's loss rises
        return optimizer.param_groups[0]["lr"]

    settings = (LOCAL | GRADIENTS)[algorithm]
    errors = ends_of_ranks(lambda comm: train(comm, settings))
    assert all(isinstance(error, Disagreement) for error in errors)
    assert len(set(map(str, errors))) == 1
    assert "different learning rates: 0.0" in str(errors[0]) and "0.1 on rank 0" in str(errors[0])
    assert "last_round['loss']" in str(errors[0])
    if algorithm in LOCAL:
        rates = hvdclip.simulate(lambda comm: train(comm, settings | {"lr_policy": "own"}), 2)
        assert rates[0] == 0.1 and rates[1] < 0.1


@pytest.mark.parametrize("algorithm", LOCAL | GRADIENTS)
@pytest.mark.parametrize(
    ("settings", "key", "value", "kept"),
    [
        ({}, "weight_decay", 0.01, 0.0),
        ({"momentum": 0.9}, "momentum", 0.8, 0.9),
        ({"inner": torch.optim.AdamW}, "betas", (0.8, 0.999), (0.9, 0.999)),
    ],
)
def test_groups_that_are_changed_in_unlike_ways_are_named(algorithm, settings, key, value, kept):
    """Gradient methods would have other parameters on each rank from then on, for ever."""

    def train(comm, on_all=False):
        model = nn.Linear(3, 1)
        both = (LOCAL | GRADIENTS)[algorithm] | settings
        optimizer = hvdclip.optimizer(
            algorithm, [{"params": [model.weight]}, {"params": [model.bias]}], comm=comm, lr=0.1, **both
        )
        one_step(model, optimizer)
        optimizer.param_groups[1][key] = value if comm.rank or on_all else kept
        for _ in range(8):
            one_step(model, optimizer)

    if algorithm == "clip21" and settings:
        return  # it has neither momentum nor an inner optimizer
    errors = ends_of_ranks(train)
    assert all(isinstance(error, Disagreement) for error in errors)
    assert len(set(map(str, errors))) == 1
    assert f"ranks disagree on {key} of parameter group 1; allowed: one value for all" in str(errors[0])
    assert str(value) in str(errors[0]) and str(kept) in str(errors[0])
    assert ends_of_ranks(lambda comm: train(comm, on_all=True)) == [None, None]


@pytest.mark.parametrize("betas", [[0.8, 0.9], (0.8, 0.9), [torch.tensor(0.8), torch.tensor(0.9)], None])
def test_groups_may_say_betas_in_any_form(betas):
    def train(comm):
        model = nn.Linear(3, 1)
        inner = torch.optim.AdamW(model.parameters(), lr=0.1)
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=1, inner=inner)
        if betas is not None:
            optimizer.param_groups[0]["betas"] = betas
        optimizer.param_groups[0]["momentum"] = None  # as some optimizers have what they do not use
        one_step(model, optimizer)

    assert ends_of_ranks(train) == [None, None]


@pytest.mark.parametrize("algorithm", GRADIENTS)
def test_gradient_methods_have_no_lr_of_each_ranks_own(algorithm):
    with pytest.raises(TypeError, match="lr_policy: unknown setting"):
        hvdclip.optimizer(algorithm, nn.Linear(3, 1), lr=0.1, lr_policy="own", **GRADIENTS[algorithm])


def test_the_common_loss_gives_the_same_rates_on_all_ranks():
    def train(comm):
        model = nn.Linear(3, 1)
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=2)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        for step in range(10):
            optimizer.zero_grad()
            loss = (model(torch.full((4, 3), 1.0 + comm.rank * step)) ** 2).mean()
            loss.backward()
            optimizer.record(loss=loss, samples=4)
            optimizer.step()
            if optimizer.steps_in_round == 0:
                scheduler.step(optimizer.last_round["loss"])
        return optimizer.param_groups[0]["lr"]

    rates = hvdclip.simulate(train, 3)
    assert len(set(rates)) == 1 and rates[0] < 0.1


def test_an_average_without_a_rank_that_has_left_is_named():
    """Horovod's join() stands in with zeros for a rank that has left."""

    def train(comm):
        model = nn.Linear(3, 1)
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=2)
        one_step(model, optimizer)
        if comm.rank == 1:
            comm.average_([torch.zeros_like(optimizer.message.wires[torch.float32])], "round", "0.main")
            return
        one_step(model, optimizer)

    error, _ = ends_of_ranks(train)
    assert "rank 1 has left" in str(error) and "hvd.join()" in str(error)
