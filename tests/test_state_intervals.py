"""Averages of an inner optimizer's states, each every so many rounds: clipped Adam in NumPy, its state, its costs."""

import copy

import numpy as np
import pytest
import torch
from averaging_cases import SHAPES, SIZE, Model, gradient, start
from torch import nn

import hvdclip

LR, C, EVERY, STEPS = 0.01, 30.0, 2, 15
B1, B2, EPS = 0.9, 0.99, 1e-8
ADAM = {"name": "Adam", "betas": (B1, B2), "eps": EPS}
BOTH = {"exp_avg": 1, "exp_avg_sq": 3}
OUTER = {"outer": "sgd", "outer_lr": 0.7, "outer_momentum": 0.5}
CUT = int(np.prod(SHAPES[0]))
PARTS = (slice(0, CUT), slice(CUT, SIZE))  # of the two tensors


def nothing(rank, step):
    """The tensors that have no gradient."""
    return ()


def recomputed(ranks, intervals, left_out=(), absent=nothing, outer=False, weights=None):
    """(steps + 1, ranks, d): x after each step and at the end; steps (rank, step) of `left_out` are not taken."""
    x, common, velocity = [start().copy() for _ in range(ranks)], start(), np.zeros(SIZE)
    m, v = ([[None, None] for _ in range(ranks)] for _ in range(2))
    counts, rows, rounds = np.zeros((ranks, 2), int), [], 0

    def average():
        nonlocal common, velocity, rounds
        rounds, mean = rounds + 1, np.average(x, axis=0, weights=weights)
        if outer:
            velocity = 0.5 * velocity + common - mean
            mean = common - 0.7 * velocity
        common = mean
        for rank in range(ranks):
            x[rank] = mean.copy()
        for name, state in (("exp_avg", m), ("exp_avg_sq", v)):
            due = name in intervals and rounds % intervals[name] == 0
            for k in range(2) if due else ():
                if all(its_own[k] is not None for its_own in state):
                    mean_state = np.average([its_own[k] for its_own in state], axis=0, weights=weights)
                    for its_own in state:
                        its_own[k] = mean_state.copy()

    for step in range(STEPS):
        for rank in range(ranks):
            if (rank, step) in left_out:
                continue
            g = gradient(rank, step, x[rank])
            there = [k for k in range(2) if k not in absent(rank, step)]
            norm = np.sqrt(sum((g[PARTS[k]] ** 2).sum() for k in there))
            g = min(1.0, C / (1e-10 + norm)) * g
            for k in there:
                counts[rank, k] += 1
                t, part = counts[rank, k], g[PARTS[k]]
                m[rank][k] = (1 - B1) * part + (0 if m[rank][k] is None else B1 * m[rank][k])
                v[rank][k] = (1 - B2) * part**2 + (0 if v[rank][k] is None else B2 * v[rank][k])
                root = np.sqrt(v[rank][k]) / np.sqrt(1 - B2**t) + EPS
                x[rank][PARTS[k]] -= LR / (1 - B1**t) * m[rank][k] / root
        if (step + 1) % EVERY == 0:
            average()
        rows.append([each.copy() for each in x])
    if STEPS % EVERY:
        average()
    return np.array([*rows, x])


def build(comm, intervals, **settings):
    model = Model()
    chosen = {"lr": LR, "max_norm": C, "interval": EVERY, "inner": ADAM, "state_intervals": intervals}
    return model, hvdclip.optimizer("celgc", model, comm=comm, **chosen | settings)


def steps(model, optimizer, first=0, last=STEPS, left_out=(), absent=nothing):
    rank, rows = optimizer.comm.rank, []
    for step in range(first, last):
        model.backward(rank, step)
        for k in absent(rank, step):
            model.weights[k].grad = None
        if (rank, step) in left_out:
            model.weights[0].grad[0, 0] = float("nan")
        optimizer.step()
        rows.append(model.x.copy())
    return rows


def trained(comm, intervals, left_out=(), absent=nothing, **settings):
    model, optimizer = build(comm, intervals, **settings)
    rows = steps(model, optimizer, left_out=left_out, absent=absent)
    optimizer.synchronize()
    return np.array([*rows, model.x])


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("intervals", [BOTH, {"exp_avg_sq": 2}], ids=str)
@pytest.mark.parametrize("outer", [False, True])
def test_states_are_averaged_when_they_are_due(ranks, intervals, outer):
    found = hvdclip.simulate(lambda comm: trained(comm, intervals, **OUTER if outer else {}), ranks)
    expected = recomputed(ranks, intervals, outer=outer)
    np.testing.assert_allclose(np.array(found).transpose(1, 0, 2), expected, rtol=1e-10, atol=1e-12)
    if ranks > 1:
        assert np.abs(expected - recomputed(ranks, {}, outer=outer)).max() > 1e-4


def test_means_of_states_have_the_ranks_weights():
    weights = (1.0, 3.0)
    found = hvdclip.simulate(lambda comm: trained(comm, BOTH, weight=weights[comm.rank]), 2)
    expected = recomputed(2, BOTH, weights=weights)
    np.testing.assert_allclose(np.array(found).transpose(1, 0, 2), expected, rtol=1e-10, atol=1e-12)


def test_a_rank_without_a_state_keeps_the_others_from_averaging_it():
    """Rank 1 leaves out its first five steps, so that it has no state in the first two rounds."""
    left_out = [(1, step) for step in range(5)]
    found = hvdclip.simulate(lambda comm: trained(comm, BOTH, left_out, on_nonfinite="skip"), 2)
    expected = recomputed(2, BOTH, left_out)
    np.testing.assert_allclose(np.array(found).transpose(1, 0, 2), expected, rtol=1e-10, atol=1e-12)


def test_a_tensor_without_gradients_on_one_rank_has_no_mean_of_states():
    def absent(rank, step):
        return (1,) if rank == 1 else ()

    found = hvdclip.simulate(lambda comm: trained(comm, BOTH, absent=absent), 2)
    expected = recomputed(2, BOTH, absent=absent)
    np.testing.assert_allclose(np.array(found).transpose(1, 0, 2), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 4, 5, 6])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(cut):
    def one(comm):
        model, optimizer = build(comm, BOTH)
        steps(model, optimizer, 0, cut)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        whole = steps(model, optimizer, cut)
        model, optimizer = build(comm, BOTH)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        return np.array_equal(whole, steps(model, optimizer, cut))

    assert all(hvdclip.simulate(one, 2))


def test_a_message_is_longer_by_what_is_due_and_then_only():
    def one(comm):
        model, optimizer = build(comm, {"exp_avg": 2, "exp_avg_sq": 3})
        sent, own = [], optimizer.message
        optimizer.on_round = lambda: sent.append(optimizer.last_round["bytes"] // 8 - optimizer.statistics.size)
        steps(model, optimizer, 0, 6 * EVERY)
        return sent, comm.ledger["round"].collectives, optimizer.message is own

    assert hvdclip.simulate(one, 2)[0] == ([SIZE, 2 * SIZE, 2 * SIZE, 2 * SIZE, SIZE, 3 * SIZE], 6, True)


def test_other_ranks_cannot_have_what_is_not_averaged_in_each_round():
    _, optimizer = build(None, BOTH)
    with pytest.raises(ValueError, match="keeps the state of its inner optimizer"):
        optimizer.check_common()
    optimizer.check_common(reset=True)


def test_ranks_do_not_join():
    _, optimizer = build(None, BOTH)
    with pytest.raises(ValueError, match=r"join\(\) works with plain averages"), optimizer.join():
        pass


class Factored(torch.optim.Optimizer):
    """One that needs what a parameter of its own does not have."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        raise ValueError("no names of layers")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"inner": None}, "state_intervals is .*, but inner is none; allowed: none"),
        ({"intervals": {"exp": 2}}, "state_intervals has 'exp'; allowed with Adam: exp_avg, exp_avg_sq"),
        ({"intervals": {"step": 2}}, "state_intervals has 'step'; allowed with Adam: exp_avg, exp_avg_sq"),
        ({"intervals": {"exp_avg": 0}}, "exp_avg is 0; allowed: greater than or equal to 1"),
        ({"intervals": {}}, r"state_intervals is {}; allowed: {state: rounds, ...}, or none"),
        ({"inner": "SGD"}, "state_intervals has 'exp_avg'; allowed with SGD: none, because it has no state of"),
        ({"inner": Factored}, "shows which states Factored has, but this step failed: .*no names of layers"),
        ({"overlap": "delayed"}, "overlap is 'delayed'; allowed with state_intervals: none"),
        ({"compression": "int8"}, "compression is 'int8'; allowed with state_intervals: none"),
        ({"averaging": "fragments", "fragments": 2}, "averaging is 'fragments'; allowed with state_intervals: whole"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_a_line(settings, match):
    with pytest.raises(ValueError, match=match) as caught:
        build(None, **{"intervals": BOTH} | settings)
    assert "\n" not in str(caught.value)


def test_each_optimizers_states_are_found_and_nothing_is_left_behind():
    for name, states in {
        "AdamW": {"exp_avg", "exp_avg_sq"},
        "SGD": {"momentum_buffer"},
        "RMSprop": {"square_avg"},
        "Adamax": {"exp_avg", "exp_inf"},
    }.items():
        p = nn.Parameter(torch.zeros(4, 5))
        inner = {"name": name, "momentum": 0.9} if name == "SGD" else name
        optimizer = hvdclip.optimizer("local_sgd", [p], lr=0.1, inner=inner, state_intervals=dict.fromkeys(states, 1))
        assert not optimizer.state and optimizer.param_groups[0]["params"] == [p]
