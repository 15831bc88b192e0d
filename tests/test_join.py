"""Ranks with different numbers of batches, in `with optimizer.join()`: against NumPy, simulated and real."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import python_ranks
from problems import SIZE, Model, Quadratic, loss, parameters

import hvdclip
from hvdclip.messages.statistics import THROUGH, Statistics

LR, GAMMA = 0.1, 0.15
WEIGHTS = (1.0, 3.0, 2.0)


def local(comm, batches, epochs=1, **settings):
    model = Model(Quadratic(comm.size).start())
    optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=LR, gamma=GAMMA, **{"interval": 4} | settings)
    batch = 0
    for _ in range(epochs):
        with optimizer.join():
            for _ in range(batches[comm.rank]):
                optimizer.zero_grad()
                loss(Quadratic(comm.size), comm.rank, batch, model).backward()
                optimizer.step()
                batch += 1
        ends = parameters(model), optimizer.steps, optimizer.rounds
    return ends


def recomputed(batches, interval, weights=None, epochs=1):
    """Only ranks that have taken a step in a round count in its average."""
    ranks, weights = len(batches), np.array(weights or [1.0] * len(batches))
    problem, x = Quadratic(ranks), Quadratic(ranks).start()
    batch = [0] * ranks
    for _ in range(epochs):
        left = list(batches)
        while any(left):
            xs, counts = [], []
            for rank in range(ranks):
                mine = x.copy()
                steps = min(interval, left[rank])
                for _ in range(steps):
                    g = problem.gradient(rank, batch[rank], mine)
                    mine = mine - min(LR, GAMMA / (1e-10 + np.linalg.norm(g))) * g
                    batch[rank] += 1
                left[rank] -= steps
                if steps:
                    xs.append(weights[rank] * mine)
                    counts.append(weights[rank])
            x = np.sum(xs, axis=0) / np.sum(counts)
    return x


@pytest.mark.parametrize("batches", [(8, 5), (3, 11), (4, 4), (1, 9), (6, 0)])
@pytest.mark.parametrize("interval", [1, 4])
def test_averages_are_of_those_that_have_taken_a_step(batches, interval):
    results = hvdclip.simulate(lambda comm: local(comm, batches, interval=interval), 2)
    x = recomputed(batches, interval)
    for found, steps, rounds in results:
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)
        assert (steps, rounds) == results[0][1:] and steps % interval == 0
    assert np.array_equal(results[0][0], results[1][0])


def test_several_epochs_on_three_ranks_of_unlike_weights():
    batches = (7, 2, 5)
    results = hvdclip.simulate(
        lambda comm: local(comm, batches, epochs=3, weight=WEIGHTS[comm.rank], momentum=0.0), len(batches)
    )
    x = recomputed(batches, 4, WEIGHTS, epochs=3)
    for found, *_ in results:
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


def gradients(comm, batches, algorithm="naive_parallel_clip", **settings):
    problem, model = Quadratic(comm.size), Model(Quadratic(comm.size).start())
    optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=LR, **settings)
    with optimizer.join():
        for batch in range(batches[comm.rank]):
            optimizer.zero_grad()
            loss(problem, comm.rank, batch, model).backward()
            optimizer.step()
    return parameters(model)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_methods_average_the_gradients_that_there_are(momentum):
    batches, problem, x, buffer = (7, 4), Quadratic(2), Quadratic(2).start(), np.zeros(SIZE)
    for batch in range(max(batches)):
        g = np.mean([problem.gradient(rank, batch, x) for rank in range(2) if batch < batches[rank]], axis=0)
        buffer = momentum * buffer + g
        x = x - min(LR, GAMMA / (1e-10 + np.linalg.norm(g))) * buffer
    results = hvdclip.simulate(lambda comm: gradients(comm, batches, gamma=GAMMA, momentum=momentum), 2)
    assert np.array_equal(*results)
    np.testing.assert_allclose(results[0], x, rtol=1e-12, atol=1e-12)


def test_batch_norm_statistics_are_those_of_ranks_with_data():
    def one(comm):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.01, interval=1)
        with optimizer.join():
            for batch in range(3 if comm.rank else 1):
                torch.manual_seed(batch)
                optimizer.zero_grad()
                model(torch.randn(8, 2) + 5).sum().backward()
                own = model[1].running_mean.clone()
                optimizer.step()
        return own, model[1].running_mean

    (_, mean), (own, also) = hvdclip.simulate(one, 2)
    assert torch.equal(mean, also) and torch.allclose(mean, own), "rank 0 has no data in the last round"


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("celgc", {"gamma": 0.1, "overlap": "delayed", "interval": 2}),
        ("celgc", {"gamma": 0.1, "compression": "int8"}),
        ("celgc", {"gamma": 0.1, "averaging": "fragments", "fragments": 2}),
        ("scaffold", {}),
        ("episode", {"gamma": 0.1}),
        ("clip21", {"tau": 1.0}),
        ("minibatch_clip", {"gamma": 0.1}),
        ("bucket_clip", {"gamma": 0.1}),
        ("clip_then_average", {"gamma": 0.1, "norm_of": "update"}),
        ("episode_pp", {"gamma": 0.1, "participants": 1}),
        ("decentralized_clip", {"tau": 1.0}),
    ],
    ids=str,
)
def test_what_does_more_is_refused_in_a_line(algorithm, settings):
    optimizer = hvdclip.optimizer(algorithm, torch.nn.Linear(2, 1), lr=0.1, **settings)
    with (
        pytest.raises(ValueError, match=rf"join\(\) works with plain averages.*{algorithm}") as refused,
        optimizer.join(),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_what_is_averaged_inside_is_told_to_wait():
    def one(comm):
        model = torch.nn.Linear(2, 1)
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, interval=3)
        with optimizer.join():
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            with pytest.raises(RuntimeError, match=r"averaged\(\) inside join\(\)"), optimizer.averaged():
                pass
        with optimizer.averaged():
            return model.weight.detach().clone()

    assert torch.equal(*hvdclip.simulate(one, 2))


@pytest.mark.parametrize("outer", ["nesterov", "adam"])
def test_an_outer_step_is_not_taken_for_a_round_without_steps(outer):
    settings = {"outer": outer, "outer_lr": 0.3, "interval": 2}

    def plainly(comm):
        problem, model = Quadratic(comm.size), Model(Quadratic(comm.size).start())
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=LR, gamma=GAMMA, **settings)
        for batch in range(4):
            optimizer.zero_grad()
            loss(problem, comm.rank, batch, model).backward()
            optimizer.step()
        return parameters(model)

    joined = hvdclip.simulate(lambda comm: local(comm, (4, 4), **settings)[0], 2)
    np.testing.assert_allclose(joined[0], hvdclip.simulate(plainly, 2)[0], rtol=1e-14)


def test_what_no_rank_has_a_gradient_for_stays_alike_on_ranks_that_are_through():
    def one(comm):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        optimizer = hvdclip.optimizer("minibatch_sgd", model, comm=comm, lr=0.1, weight_decay=0.5, momentum=0.9)
        model[0].requires_grad_(False)
        before = model[0].weight.detach().clone()
        with optimizer.join():
            for _ in range(4 if comm.rank else 2):
                optimizer.zero_grad()
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
        return torch.equal(before, model[0].weight), model[1].weight.detach().clone()

    (same, x), (also, other) = hvdclip.simulate(one, 2)
    assert same and also and torch.equal(x, other)


def test_an_error_inside_ends_the_joining():
    model = torch.nn.Linear(2, 1)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=2)
    with pytest.raises(KeyError), optimizer.join():
        raise KeyError
    assert not optimizer.participation.joined and optimizer.takes_part
    optimizer.synchronize()


@pytest.mark.parametrize("ranks", [41, 49, 55, 98, 1000])
def test_that_all_are_through_is_seen_though_a_mean_of_ones_is_rounded(ranks):
    comm = hvdclip.simulate(lambda comm: comm, 1)[0]
    comm.size = ranks
    statistics = Statistics(comm)
    tail = torch.zeros(statistics.size)
    tail[THROUGH] = torch.tensor(float(ranks)) * torch.tensor(1 / ranks)  # as Horovod averages
    statistics.unpack(tail)
    assert statistics.all_through
    tail[THROUGH] = torch.tensor(ranks - 1.0) * torch.tensor(1 / ranks)
    statistics.unpack(tail)
    assert not statistics.all_through


@pytest.mark.parametrize("called", ["synchronize", "add_param_group"])
def test_what_cannot_be_done_inside_is_told(called):
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=2)
    arguments = [{"params": other.parameters()}] if called == "add_param_group" else []
    with pytest.raises(RuntimeError, match=r"inside join\(\)"), optimizer.join():
        getattr(optimizer, called)(*arguments)
    optimizer.add_param_group({"params": other.parameters(), "lr": 0.0})
    assert len(optimizer.space.parameters) == 4


SCRIPT = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import horovod.torch as hvd
from test_join import gradients, local
from hvdclip.comm import default
hvd.init()
comm = default()
found = [local(comm, (8, 5))[0], local(comm, (1, 6), epochs=2, interval=2)[0], gradients(comm, (2, 5), gamma=0.15)]
if comm.rank == 1:
    print("RESULT", json.dumps([x.tolist() for x in found]))
"""


@pytest.mark.ranks
def test_on_real_ranks():
    simulated = [
        hvdclip.simulate(lambda comm: local(comm, (8, 5))[0], 2)[0],
        hvdclip.simulate(lambda comm: local(comm, (1, 6), epochs=2, interval=2)[0], 2)[0],
        hvdclip.simulate(lambda comm: gradients(comm, (2, 5), gamma=0.15), 2)[0],
    ]
    done = python_ranks(SCRIPT, 2)
    found = json.loads(next(line for line in done.stdout.splitlines() if "RESULT" in line).split("RESULT", 1)[1])
    for mine, theirs in zip(found, simulated, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
