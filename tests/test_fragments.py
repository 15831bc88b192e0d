"""Averages of parts of x in turn: the rule in NumPy on tensors of many sizes, its state, its costs."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import hvdclip
from hvdclip.averaging.fragments import fragments_of

SHAPES = [(3, 4), (4,), (5, 2), (2,), (6,), (1,)]
SIZES = [12, 4, 10, 2, 6, 1]
P = 35
# by hand: of three parts the first ends nearest to 35/3 (12), the second nearest to 70/3 (26)
BOUNDS = {1: [0, 35], 2: [0, 16, 35], 3: [0, 12, 26, 35], 6: [0, 12, 16, 26, 28, 34, 35]}
LR, GAMMA, INTERVAL, STEPS = 0.1, 0.2, 3, 20


def start():
    return np.random.default_rng(0).normal(size=P)


def gradient(rank, step, x):
    a, b = np.random.default_rng((1, rank)).uniform([[0.2], [-1.0]], [[2.0], [1.0]], (2, P))
    return a * x - b + 0.3 * np.random.default_rng((2, rank, step)).normal(size=P)


def recomputed(ranks, fragments, steps=STEPS):
    """(steps + 1, ranks, P): x after each step, and after the last average, which takes all of x."""
    xs, rows = [start() for _ in range(ranks)], []
    for step in range(steps):
        for rank in range(ranks):
            g = gradient(rank, step, xs[rank])
            xs[rank] = xs[rank] - min(LR, GAMMA / (1e-10 + np.linalg.norm(g))) * g
        if (step + 1) % INTERVAL == 0:
            part = slice(*list(pairwise(BOUNDS[fragments]))[(step + 1) // INTERVAL % fragments - 1])
            mean = np.mean(xs, axis=0)
            for x in xs:
                x[part] = mean[part]
        rows.append([x.copy() for x in xs])
    return np.array([*rows, [np.mean(xs, axis=0)] * ranks])


class Model(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        pieces = np.split(start(), np.cumsum(SIZES)[:-1])
        tensors = [torch.tensor(p, dtype=dtype).view(s) for p, s in zip(pieces, SHAPES, strict=True)]
        self.tensors = nn.ParameterList(tensors)

    @property
    def x(self):
        return torch.cat([p.detach().flatten() for p in self.tensors]).double().numpy().copy()

    def backward(self, rank, step):
        g = torch.from_numpy(gradient(rank, step, self.x))
        for p, piece in zip(self.tensors, g.split(SIZES), strict=True):
            p.grad = piece.view(p.shape).to(p.dtype)


def build(comm, fragments, **settings):
    model = Model()
    chosen = {"lr": LR, "gamma": GAMMA, "interval": INTERVAL, "averaging": "fragments", "fragments": fragments}
    return model, hvdclip.optimizer("celgc", model, comm=comm, **chosen | settings)


def run(model, optimizer, first, last):
    rows = []
    for step in range(first, last):
        model.backward(optimizer.comm.rank, step)
        optimizer.step()
        rows.append(model.x)
    return rows


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("fragments", BOUNDS)
def test_fragments_in_turn_are_those_of_the_rule(ranks, fragments):
    def one(comm):
        model, optimizer = build(comm, fragments)
        rows = run(model, optimizer, 0, STEPS)
        optimizer.synchronize()
        return np.array([*rows, model.x])

    found = np.array(hvdclip.simulate(one, ranks)).transpose(1, 0, 2)
    np.testing.assert_allclose(found, recomputed(ranks, fragments), rtol=1e-12, atol=1e-13)
    assert (found[-1] == found[-1, 0]).all()


def test_the_last_average_takes_all_also_after_a_whole_round():
    def one(comm):
        model, optimizer = build(comm, 3)
        run(model, optimizer, 0, 2 * INTERVAL)
        apart, rounds = model.x, optimizer.rounds
        optimizer.synchronize()
        once = model.x
        optimizer.synchronize()
        return apart, once, model.x, rounds, optimizer.rounds, comm.ledger["final"].collectives

    (a, mean, again, *numbers), (b, *_) = hvdclip.simulate(one, 2)
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_allclose(mean, (a + b) / 2, rtol=1e-14)
    assert np.array_equal(mean, again) and numbers == [2, 2, 1]
    np.testing.assert_allclose(mean, recomputed(2, 3, 2 * INTERVAL)[-1, 0], rtol=1e-12)


@pytest.mark.parametrize("cut", [4, 6, 8])
def test_a_run_that_is_resumed_in_mid_cycle_is_the_same_to_the_bit(cut):
    def one(comm):
        model, optimizer = build(comm, 3, momentum=0.5)
        run(model, optimizer, 0, cut)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        whole = run(model, optimizer, cut, STEPS)
        model, optimizer = build(comm, 3, momentum=0.5)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        with optimizer.averaged():
            mean = model.x
        return np.array_equal(whole, run(model, optimizer, cut, STEPS)), mean

    (same, mean), (also, others) = hvdclip.simulate(one, 2)
    assert same and also and np.array_equal(mean, others)


def test_averaged_is_the_mean_of_all_of_x_at_any_time():
    def one(comm):
        model, optimizer = build(comm, 2)
        found = []
        for step in range(STEPS):
            run(model, optimizer, step, step + 1)
            own = model.x
            with optimizer.averaged():
                found.append((own, model.x))
            assert np.array_equal(own, model.x)
        optimizer.synchronize()
        before = comm.ledger["evaluation"].collectives
        with optimizer.averaged():
            found.append((model.x, model.x))
        return np.array(found), comm.ledger["evaluation"].collectives - before

    (first, free), (second, _) = hvdclip.simulate(one, 2)
    np.testing.assert_allclose(first[:, 1], (first[:, 0] + second[:, 0]) / 2, rtol=1e-14)
    assert free == 0


@pytest.mark.parametrize("fragments", [2, 3])
def test_a_round_sends_its_fragment_only(fragments):
    def one(comm):
        model, optimizer = build(comm, fragments)
        sent = []
        optimizer.on_round = lambda: sent.append(optimizer.last_round["bytes"] // 8 - optimizer.statistics.size)
        run(model, optimizer, 0, fragments * INTERVAL)
        return sent

    assert hvdclip.simulate(one, 2)[0] == np.diff(BOUNDS[fragments]).tolist()


def test_buffers_and_statistics_travel_in_every_round():
    def one(comm):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        fragmented = {"averaging": "fragments", "fragments": 4}
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, interval=1, **fragmented)
        seen = []
        for step in range(4):
            torch.manual_seed(10 * step + comm.rank)
            optimizer.zero_grad()
            loss = model(torch.randn(5, 2)).pow(2).sum()
            loss.backward()
            optimizer.record(loss=loss, samples=5)
            own = model[1].running_mean.clone()
            optimizer.step()
            seen.append((own, model[1].running_mean.clone(), loss.item(), optimizer.last_round))
        return seen

    for (a, mean, loss, metrics), (b, others, other, _) in zip(*hvdclip.simulate(one, 2), strict=True):
        assert torch.equal(mean, others) and torch.allclose(mean, (a + b) / 2, atol=1e-7)
        assert metrics["samples"] == 10 and metrics["loss"] == pytest.approx((loss + other) / 2, rel=1e-6)


def test_parts_are_about_equally_large():
    for fragments, bounds in BOUNDS.items():
        ends = np.cumsum([0, *SIZES])
        found = fragments_of(SIZES, fragments)
        assert [ends[part.start] for part in found] + [P] == bounds
    assert fragments_of([1, 1, 100], 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert fragments_of([100, 1, 1], 2) == [slice(0, 1), slice(1, 3)]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"averaging": "fragments"}, "averaging is 'fragments' and fragments is None; allowed"),
        ({"fragments": 2}, "averaging is 'whole' and fragments is 2; allowed"),
        ({"averaging": "fragments", "fragments": 0}, "fragments is 0; allowed: greater than or equal to 1"),
        ({"averaging": "fragments", "fragments": 7}, "fragments is 7; allowed: 1 to the number of tensors, which is 6"),
        ({"averaging": "parts", "fragments": 2}, "averaging is 'parts'; allowed: 'whole' or 'fragments'"),
        ({"averaging": "fragments", "fragments": 2, "overlap": "delayed"}, "overlap is 'delayed'; allowed with"),
        ({"averaging": "fragments", "fragments": 2, "compression": "int8"}, "compression is 'int8'; allowed with"),
        (
            {"averaging": "fragments", "fragments": 2, "outer": "sgd", "outer_lr": 1.0},
            "outer is 'sgd'; allowed with averaging fragments: none",
        ),
        (
            {"averaging": "fragments", "fragments": 2, "momentum": 0.9, "momentum_policy": "average"},
            "averaging is 'fragments', for x only; allowed momentum_policy: keep, reset",
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_a_line(settings, match):
    with pytest.raises(ValueError, match=match) as caught:
        hvdclip.optimizer("celgc", Model(), lr=0.1, gamma=0.1, interval=3, **settings)
    assert "\n" not in str(caught.value)


def test_fragments_need_no_common_x():
    with pytest.raises(ValueError, match="averaging is 'fragments'; allowed: whole, since the local steps need"):
        hvdclip.optimizer("fedprox", Model(), lr=0.1, mu=0.1, interval=3, averaging="fragments", fragments=2)


def test_another_number_of_ranks_cannot_resume():
    _, optimizer = build(None, 2)
    with pytest.raises(ValueError, match=r"celgc keeps the fragments of x that the last average did not take$"):
        optimizer.check_common(reset=True)
