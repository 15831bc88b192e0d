"""What must hold for any problem, number of ranks, interval and setting (Lemma 1 of the CELGC paper among it)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Model, Quadratic, loss, parameters

import hvdclip

settings.register_profile("hvdclip", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("hvdclip")

RANKS = st.integers(1, 5)
INTERVAL = st.integers(1, 6)
SEED = st.integers(0, 10_000)
ETA = st.floats(1e-3, 0.3)
GAMMA = st.floats(1e-3, 1.0)


def train(ranks, algorithm, steps, problem, start=None, data_rank=lambda rank: rank, **chosen):
    """x of every rank after every step, (ranks, steps, d), and the metrics of the last round."""

    def one(comm):
        model = Model(problem.start() if start is None else start)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **chosen)
        x = []
        for step in range(steps):
            optimizer.zero_grad()
            loss(problem, data_rank(comm.rank), step, model).backward()
            optimizer.step()
            x.append(parameters(model))
        return x, optimizer.last_round

    results = hvdclip.simulate(one, ranks)
    return np.array([x for x, _ in results]), results[0][1]


@given(SEED, ETA, GAMMA, INTERVAL)
def test_one_rank_is_clipped_sgd_of_torch(seed, eta, gamma, interval):
    problem = Quadratic(1, seed)
    x, _ = train(1, "celgc", 8, problem, lr=eta, gamma=gamma, interval=interval)
    model = Model(problem.start())
    sgd = torch.optim.SGD(model.parameters(), lr=eta)
    for step in range(8):
        sgd.zero_grad()
        loss(problem, 0, step, model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), gamma / eta)
        sgd.step()
        # clip_grad_norm_ adds 1e-6 to the norm
        np.testing.assert_allclose(x[0, step], parameters(model), rtol=1e-4, atol=1e-4)


@given(RANKS, INTERVAL, SEED, ETA)
def test_without_a_threshold_celgc_is_local_sgd(ranks, interval, seed, eta):
    problem = Quadratic(ranks, seed)
    clipped, _ = train(ranks, "celgc", 7, problem, lr=eta, gamma=float("inf"), interval=interval)
    free, _ = train(ranks, "local_sgd", 7, problem, lr=eta, interval=interval)
    np.testing.assert_array_equal(clipped, free)


@given(RANKS, SEED, ETA)
def test_without_a_threshold_and_with_i_1_celgc_is_minibatch_sgd(ranks, seed, eta):
    problem = Quadratic(ranks, seed)
    local, _ = train(ranks, "celgc", 7, problem, lr=eta, gamma=float("inf"), interval=1)
    synchronous, _ = train(ranks, "minibatch_sgd", 7, problem, lr=eta)
    np.testing.assert_allclose(local, synchronous, rtol=1e-10, atol=1e-12)


@given(st.sampled_from([1, 2, 4]), INTERVAL, SEED, ETA, GAMMA)
def test_averaging_changes_nothing_when_all_ranks_see_the_same_data(ranks, interval, seed, eta, gamma):
    problem = Quadratic(1, seed)
    alone, _ = train(1, "celgc", 9, problem, lr=eta, gamma=gamma, interval=interval)
    many, _ = train(ranks, "celgc", 9, problem, data_rank=lambda rank: 0, lr=eta, gamma=gamma, interval=interval)
    for x in many:
        np.testing.assert_array_equal(x, alone[0])


@given(RANKS, INTERVAL, SEED, ETA, GAMMA)
def test_steps_are_no_longer_than_gamma_and_drift_no_larger_than_2_gamma_i(ranks, interval, seed, eta, gamma):
    problem = Quadratic(ranks, seed)
    x, _ = train(ranks, "celgc", 2 * interval, problem, lr=eta, gamma=gamma, interval=interval)
    before = problem.start()
    for step in range(2 * interval):
        if (step + 1) % interval == 0:  # what is seen here is after the average
            assert all(np.array_equal(one, x[0, step]) for one in x[:, step])
        else:
            for rank in range(ranks):
                start = before if step == 0 else x[rank, step - 1]
                g = problem.gradient(rank, step, start)
                length = np.linalg.norm(x[rank, step] - start)
                assert length == pytest.approx(min(eta * np.linalg.norm(g), gamma), rel=1e-8)
                assert length <= gamma * (1 + 1e-12)
        drift = np.linalg.norm(x[:, step] - x[:, step].mean(axis=0), axis=1)
        assert (drift <= 2 * gamma * interval).all()


@given(SEED)
def test_local_and_naive_clipping_differ_once_a_rank_clips(seed):
    problem = Quadratic(2, seed, spread=5.0)
    chosen = {"lr": 0.1, "gamma": 1e-3}
    local, metrics = train(2, "celgc", 3, problem, interval=1, **chosen)
    naive, _ = train(2, "naive_parallel_clip", 3, problem, **chosen)
    assert metrics["clip_fraction"] == 1
    assert np.abs(local - naive).max() > 1e-6


@given(SEED, ETA)
def test_local_and_naive_clipping_agree_when_nothing_is_clipped(seed, eta):
    problem = Quadratic(2, seed)
    chosen = {"lr": eta, "gamma": 1e6}
    local, metrics = train(2, "celgc", 5, problem, interval=1, **chosen)
    naive, _ = train(2, "naive_parallel_clip", 5, problem, **chosen)
    assert metrics["clip_fraction"] == 0
    np.testing.assert_allclose(local, naive, rtol=1e-10, atol=1e-12)


@given(RANKS, SEED, ETA, GAMMA)
def test_celgc_with_i_1_is_clip_then_average(ranks, seed, eta, gamma):
    problem = Quadratic(ranks, seed)
    local, _ = train(ranks, "celgc", 5, problem, lr=eta, gamma=gamma, interval=1)
    clipped, _ = train(ranks, "clip_then_average", 5, problem, lr=eta, gamma=gamma)
    np.testing.assert_allclose(local, clipped, rtol=1e-9, atol=1e-10)


@given(RANKS, SEED, st.floats(0.1, 10), st.floats(0.05, 2))
def test_scaling_eta_and_gamma_together_leaves_the_clip_decision(ranks, seed, scale, c):
    problem = Quadratic(ranks, seed)
    _, one = train(ranks, "celgc", 1, problem, lr=0.1, gamma=0.1 * c, interval=1)
    _, other = train(ranks, "celgc", 1, problem, lr=0.1 * scale, gamma=0.1 * scale * c, interval=1)
    assert one["clip_fraction"] == other["clip_fraction"]


@given(RANKS, INTERVAL, SEED, ETA, GAMMA)
def test_delta_gclip_lies_between_clipping_and_sgd(ranks, interval, seed, eta, gamma):
    problem = Quadratic(ranks, seed)
    chosen = {"lr": eta, "interval": interval}
    with_0, _ = train(ranks, "delta_gclip", 5, problem, gamma=gamma, delta=0.0, **chosen)
    clipped, _ = train(ranks, "celgc", 5, problem, gamma=gamma, **chosen)
    np.testing.assert_array_equal(with_0, clipped)
    with_1, _ = train(ranks, "delta_gclip", 5, problem, gamma=gamma, delta=1.0, **chosen)
    free, _ = train(ranks, "local_sgd", 5, problem, **chosen)
    np.testing.assert_array_equal(with_1, free)


@given(RANKS, INTERVAL, SEED, ETA)
def test_fedprox_without_its_term_is_local_sgd(ranks, interval, seed, eta):
    problem = Quadratic(ranks, seed)
    prox, _ = train(ranks, "fedprox", 5, problem, lr=eta, interval=interval, mu=0.0)
    free, _ = train(ranks, "local_sgd", 5, problem, lr=eta, interval=interval)
    np.testing.assert_array_equal(prox, free)


@given(INTERVAL, SEED, ETA)
def test_normalized_steps_have_length_eta(interval, seed, eta):
    problem = Quadratic(1, seed)
    x, _ = train(1, "normalized_sgd", 6, problem, lr=eta, interval=interval, momentum=0.5)
    lengths = np.linalg.norm(np.diff(x[0], axis=0, prepend=problem.start()[None]), axis=1)
    np.testing.assert_allclose(lengths, eta, rtol=1e-9)


def test_a_step_along_a_zero_gradient_is_none():
    for algorithm in ("normalized_sgd", "delta_gclip"):
        model = Model(np.ones(10))
        chosen = {"gamma": 0.1, "delta": 0.5} if algorithm == "delta_gclip" else {}
        optimizer = hvdclip.optimizer(algorithm, model, lr=0.1, weight_decay=0.1, **chosen)
        (0 * model().sum()).backward()
        optimizer.step()
        np.testing.assert_array_equal(parameters(model), np.ones(10))


@pytest.mark.parametrize("algorithm", ["scaffold", "scaffold_clip"])
@given(RANKS, INTERVAL, SEED, ETA)
def test_control_variates_cancel_over_the_ranks(algorithm, ranks, interval, seed, eta):
    problem = Quadratic(ranks, seed)
    gamma = {"gamma": 0.1} if algorithm == "scaffold_clip" else {}

    def one(comm):
        model = Model(problem.start())
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=eta, interval=interval, **gamma)
        for step in range(2 * interval + 1):
            optimizer.zero_grad()
            loss(problem, comm.rank, step, model).backward()
            optimizer.step()
        optimizer.synchronize()
        return (optimizer.vectors["c_i"] - optimizer.vectors["c"]).parts

    differences = hvdclip.simulate(one, ranks)
    for parts in zip(*differences, strict=True):
        mean = sum(parts) / ranks
        np.testing.assert_allclose(mean, 0, atol=1e-9 * (1 + max(part.abs().max().item() for part in parts)))


@given(SEED, ETA)
def test_on_one_rank_scaffold_is_local_sgd(seed, eta):
    problem = Quadratic(1, seed)
    controlled, _ = train(1, "scaffold", 7, problem, lr=eta, interval=3)
    free, _ = train(1, "local_sgd", 7, problem, lr=eta, interval=3)
    np.testing.assert_allclose(controlled, free, rtol=1e-8, atol=1e-9)
