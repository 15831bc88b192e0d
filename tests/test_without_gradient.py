"""Parameters without a gradient are left alone, as torch's optimizers leave them."""

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, is_local, settings_of
from torch import nn

import hvdclip
from hvdclip.methods import METHODS

FROZEN_FROM, STEPS = 5, 20
INNERS = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def train(model, optimizer, rank=0, freeze=lambda step: step >= FROZEN_FROM, zero_grad=True):
    """x after each step; from some step on the first layer has no gradient."""
    rows, batch = [], -1

    def closure(again=False):
        nonlocal batch
        batch += not again
        optimizer.zero_grad()
        draw = torch.Generator().manual_seed(100 * rank + batch)
        x = torch.randn(8, 6, generator=draw)
        loss = (model(x) - x[:, :2]).pow(2).mean()
        loss.backward()
        return loss

    for step in range(STEPS):
        model[0].requires_grad_(not freeze(step))
        optimizer.step(closure)
        rows.append([p.detach().clone() for p in model.parameters()])
    return rows


def moved(rows):
    """How far the first layer has moved since it was frozen."""
    return max((a - b).abs().max().item() for a, b in zip(rows[FROZEN_FROM - 1][:2], rows[-1][:2], strict=True))


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_a_layer_frozen_in_mid_training_stays_where_torch_leaves_it(algorithm, inner):
    theirs = network()
    expected = train(theirs, getattr(torch.optim, inner)(theirs.parameters(), lr=0.01))
    model = network()
    settings = settings_of(algorithm, {"lr": 0.01, "inner": inner, "max_norm": 1e6}, interval=3)
    settings.pop("gamma")
    found = train(model, hvdclip.optimizer(algorithm, model, **settings))
    for mine, other in zip(found, expected, strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert moved(found) == 0


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "nesterov": True}]
)
def test_so_does_hvdclips_own_step(settings):
    theirs, model = network(), network()
    expected = train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, **settings))
    found = train(model, hvdclip.optimizer("local_sgd", model, lr=0.1, interval=3, **settings))
    for mine, other in zip(found, expected, strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert moved(found) == 0


CASES = [(name, variant) for name in METHODS for variant in ALGORITHMS[name].compared if "weights" not in variant]


@pytest.mark.parametrize(("algorithm", "variant"), CASES, ids=str)
def test_every_method_leaves_them_alone_with_all_that_it_keeps(algorithm, variant):
    """On two ranks, both of which freeze the layer at the end of a round, where all ranks hold the same x."""

    def one(comm):
        model = network()
        settings = settings_of(algorithm, variant | {"weight_decay": 0.1, "lr": 0.05}, gamma=0.05, interval=5)
        if "participants" in settings:
            settings["participants"] = min(settings["participants"], comm.size)
        if algorithm == "sketched":
            settings |= {"width": 47, "server_lr": 0.05}
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **settings)
        return train(model, optimizer, comm.rank), optimizer.last_round["clip_fraction"]

    if algorithm == "decentralized_clip":
        pytest.skip("its ranks hold different x when the layer is frozen, and go on averaging it")
    for rows, _ in hvdclip.simulate(one, 2):
        assert moved(rows) == 0
        assert (rows[FROZEN_FROM][2] - rows[-1][2]).abs().max() > 0, "the other layer is trained"


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip", "clip21", "bucket_clip"])
def test_a_gradient_on_one_rank_only_counts(algorithm):
    """Local methods: the rank without one stays, the average is over all. Gradient methods: the others' gradient."""

    def one(comm):
        model = network()
        before = model[0].weight.detach().clone()
        settings = settings_of(algorithm, {"lr": 0.1, "weight_decay": 0.1, **ALGORITHMS[algorithm].needed}, gamma=0.05)
        if is_local(algorithm):
            settings["interval"] = 2
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **settings)
        x = torch.ones(4, 6) * (1 + comm.rank)
        model[0].requires_grad_(comm.rank == 1)
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        own = model[0].weight.detach() - before
        optimizer.synchronize()
        return own, model[0].weight.detach() - before

    (own, after), (others, also) = hvdclip.simulate(one, 2)
    assert torch.equal(after, also) and others.abs().max() > 0
    if is_local(algorithm):
        assert own.abs().max() == 0
        torch.testing.assert_close(after, others / 2, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(own, others)


def test_a_warm_up_by_gradients_leaves_alone_what_no_rank_has_a_gradient_for():
    def one(comm):
        model = network()
        warm = {"warmup": "gradients", "warmup_steps": 12, "momentum": 0.9, "weight_decay": 0.1}
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=4, **warm)
        return train(model, optimizer, comm.rank)

    for rows in hvdclip.simulate(one, 2):
        assert moved(rows) == 0


@pytest.mark.parametrize("algorithm", ["celgc", "local_sgd", "naive_parallel_clip", "adam_prox"])
def test_a_step_without_any_gradient_counts_moves_nothing_and_says_so_once(algorithm, recwarn):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    settings = settings_of(algorithm, {"lr": 0.1, "weight_decay": 0.1}, interval=2)
    optimizer = hvdclip.optimizer(algorithm, model, **settings)
    for _ in range(4):
        optimizer.step()
    assert optimizer.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    told = [str(w.message) for w in recwarn if "no parameter has a gradient" in str(w.message)]
    assert len(told) == 1 and "\n" not in told[0]


def test_large_batches_leave_alone_what_had_no_gradient_in_any_of_them():
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("minibatch_clip", model, comm=comm, lr=0.1, gamma=0.1, interval=2, momentum=0.9)
        rows = train(model, optimizer, comm.rank, freeze=lambda step: step >= 6 or step % 2)
        return np.array([[row[0].norm().item() for row in rows]]).ravel()

    for norms in hvdclip.simulate(one, 2):
        assert (np.diff(norms[7:]) == 0).all() and norms[5] != norms[3] != norms[1]


@pytest.mark.parametrize("outer", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("overlap", ["none", "delayed"])
def test_an_outer_step_leaves_alone_what_no_rank_has_moved(outer, overlap):
    """Its momentum would move a frozen layer for many rounds."""

    def one(comm):
        model = network()
        settings = {"outer": outer, "outer_lr": 0.3, "overlap": overlap, "interval": 5}
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.05, gamma=0.05, **settings)
        return train(model, optimizer, comm.rank)

    for rows in hvdclip.simulate(one, 2):
        # a delayed average of the round before the freezing is still to come
        last = rows[FROZEN_FROM - 1] if overlap == "none" else rows[2 * FROZEN_FROM - 1]
        assert all(torch.equal(a, b) for a, b in zip(last[:2], rows[-1][:2], strict=True))
        assert (last[2] - rows[-1][2]).abs().max() > 0
