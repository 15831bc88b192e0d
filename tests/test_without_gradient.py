"""Parameters without a gradient are left alone, as torch's optimizers leave them."""

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, OF_ONE_LOSS, is_local, settings_of
from torch import nn

import hvdclip
from hvdclip.torch_private import TAKES_NAMES

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


CASES = [(name, variant) for name in OF_ONE_LOSS for variant in ALGORITHMS[name].compared if "weights" not in variant]


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


def test_an_incomplete_large_batch_leaves_them_alone_too():
    model = network()
    optimizer = hvdclip.optimizer("minibatch_clip", model, lr=0.1, gamma=1.0, interval=3, weight_decay=0.5)
    model[0].requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()
    optimizer.synchronize()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False, False, True, True]


UNFROZEN_AT, INTERVAL = 5, 3  # the round that is under way ends after 6 steps


def unfreezing(make, rank=0, at=UNFROZEN_AT):
    """x after each of 20 steps; the first layer is frozen at the start and unfrozen later."""
    model = network()
    model[0].requires_grad_(False)
    optimizer, rows = make(model), []
    for step in range(STEPS):
        if step == at:
            model[0].requires_grad_(True)
        optimizer.zero_grad()
        draw = torch.Generator().manual_seed(100 * rank + step)
        x = torch.randn(8, 6, generator=draw)
        (model(x) - x[:, :2]).pow(2).mean().backward()
        optimizer.step()
        rows.append([p.detach().clone() for p in model.parameters()])
    return rows, optimizer


HANDED = {
    "module": lambda model: model,
    "parameters": lambda model: list(model.parameters()),
    "named": lambda model: model.named_parameters(),
    "groups": lambda model: [
        {"params": list(model[0].parameters()), "lr": 0.05},
        {"params": list(model[2].parameters()), "lr": 0.1},
    ],
}


@pytest.mark.parametrize("handed", HANDED)
@pytest.mark.parametrize(
    ("algorithm", "settings", "torchs"),
    [
        ("local_sgd", {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}),
        ("local_sgd", {"inner": torch.optim.AdamW}, None),
        ("minibatch_sgd", {"momentum": 0.9}, {"momentum": 0.9}),
    ],
    ids=str,
)
def test_what_is_unfrozen_is_trained_from_the_next_round_on(handed, algorithm, settings, torchs):
    """As torch trains a layer that is unfrozen when the round ends."""

    def torch_optimizer(model):
        bare = handed == "module" or (handed == "named" and not TAKES_NAMES)
        given = model.parameters() if bare else HANDED[handed](model)
        chosen = torch.optim.AdamW if torchs is None else torch.optim.SGD
        return chosen(given, lr=0.1, **(torchs or {"weight_decay": 0.01}))

    if torchs is None:
        settings = settings | {"weight_decay": 0.01}
    expected, _ = unfreezing(torch_optimizer, at=UNFROZEN_AT + 1)
    extra = {"interval": INTERVAL} if algorithm == "local_sgd" else {}
    found, optimizer = unfreezing(
        lambda model: hvdclip.optimizer(algorithm, HANDED[handed](model), lr=0.1, **settings | extra)
    )
    for step, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda text, s=step: f"step {s}: {text}")
    assert optimizer.steps == STEPS and (found[0][0] - found[-1][0]).abs().max() > 0


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip", "scaffold", "clip21", "adam_prox"])
@pytest.mark.parametrize("outer", [{}, {"outer": "nesterov", "outer_lr": 0.7}], ids=["", "outer"])
def test_on_two_ranks_it_is_averaged_like_the_rest(algorithm, outer):
    if outer and not is_local(algorithm):
        pytest.skip("an outer step is for local methods")

    def one(comm):
        settings = settings_of(algorithm, {"lr": 0.05, **outer}, gamma=0.5, interval=INTERVAL)
        rows, optimizer = unfreezing(lambda m: hvdclip.optimizer(algorithm, m, comm=comm, **settings), comm.rank)
        optimizer.synchronize()
        return rows, [p.detach().clone() for p in optimizer.space.parameters], optimizer.rounds

    (rows, x, rounds), (_, also, _) = hvdclip.simulate(one, 2)
    assert all(torch.equal(a, b) for a, b in zip(x, also, strict=True)) and len(x) == 4
    assert (rows[0][0] - rows[-1][0]).abs().max() > 0
    assert rounds == (STEPS // INTERVAL + 1 if is_local(algorithm) else STEPS)


def test_ranks_that_unfreeze_unlike_parameters_are_told():
    def one(comm):
        try:
            unfreezing(
                lambda m: hvdclip.optimizer("celgc", m, comm=comm, lr=0.1, gamma=0.1, interval=INTERVAL),
                at=UNFROZEN_AT if comm.rank else STEPS,
            )
        except hvdclip.methods.Disagreement as error:
            return str(error)
        return ""

    told = hvdclip.simulate(one, 2)
    assert told[0] == told[1] and "ranks disagree on parameters that were unfrozen" in told[0]


@pytest.mark.parametrize("settings", [{"overlap": "delayed"}, {"averaging": "fragments", "fragments": 2}], ids=str)
def test_where_ranks_never_agree_between_rounds_it_is_named(settings):
    with pytest.raises(
        RuntimeError, match=r"parameter 0\.weight was unfrozen, but with these settings ranks never have"
    ) as told:
        unfreezing(lambda m: hvdclip.optimizer("celgc", m, lr=0.1, gamma=0.1, interval=INTERVAL, **settings))
    assert "\n" not in str(told.value)
