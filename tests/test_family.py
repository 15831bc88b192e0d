"""What single methods of the family do beyond their formula: overlap, neighbours, noise, weights, samples of ranks."""

import gc
import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from cases import drawn
from launch import python_ranks, run_ranks
from problems import Model, Quadratic, loss
from torch import nn

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.messages.statistics import quantiles
from hvdclip.methods import LocalMethod, LocalSettings

PROJECT = Path(__file__).parent.parent


def point(value=0.0, size=4):
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, value)
    return model


# bucket_clip


@pytest.mark.ranks
def test_buckets_are_sent_while_backward_still_makes_others(tmp_path):
    """In Horovod's own timeline; the bucket that backward makes last is sent when it has ended."""
    script = [sys.executable, str(PROJECT / "jobs/show_overlap.py")]
    shown = run_ranks(script, 2, env={"HOROVOD_TIMELINE": str(tmp_path / "timeline.json")}).stdout
    rows = [line.split() for line in shown.splitlines() if re.match(r" +\d", line)]
    ended = [float(row[2]) for row in rows]
    assert [row[0] for row in rows] == list("012345")
    assert all(time < 0 for time in ended[:4]) and ended[5] > 0, shown
    assert ended[:4] == sorted(ended[:4]), "in the order of backward"


def test_bucket_clip_refuses_what_it_cannot_do():
    model = nn.Linear(2, 2)
    optimizer = hvdclip.optimizer("bucket_clip", model, lr=0.1, gamma=0.1, bucket_mb=1e-6)
    model(torch.ones(2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"call step\(\) after each backward\(\)"):
        model(torch.ones(2)).sum().backward()
    other = nn.Linear(2, 2)
    optimizer = hvdclip.optimizer("bucket_clip", other, lr=0.1, gamma=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(other(torch.ones(2)).sum()).backward()
    with pytest.raises(TypeError, match="bucket_clip clips during backward"):
        scaler.step(optimizer)


def test_an_unused_parameter_does_not_hold_its_bucket_up():
    def one(comm):
        model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        for p in model.parameters():
            nn.init.ones_(p)
        optimizer = hvdclip.optimizer("bucket_clip", model, comm=comm, lr=0.1, gamma=10.0, bucket_mb=1e-6)
        for _ in range(2):
            optimizer.zero_grad()
            model[comm.rank](torch.ones(2)).sum().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    for parts in hvdclip.simulate(one, 2):
        for p in parts:
            torch.testing.assert_close(p, torch.full_like(p, 1 - 2 * 0.1 / 2))


# decentralized_clip


@pytest.mark.ranks
def test_neighbours_need_mpi():
    source = """
        import horovod.torch as hvd, torch, hvdclip
        hvd.init()
        hvdclip.optimizer("decentralized_clip", torch.nn.Linear(2, 2), lr=0.1, tau=1.0)
    """
    done = python_ranks(source, 2, "horovodrun-gloo", check=False)
    assert done.returncode and "decentralized_clip sends to neighbours by MPI" in done.stdout + done.stderr


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [2, 4])
def test_neighbours_exchange_without_a_collective(ranks, tmp_path):
    source = """
        import horovod.torch as hvd, torch, hvdclip
        hvd.init()
        model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(model.weight)
        optimizer = hvdclip.optimizer("decentralized_clip", model, lr=1.0, tau=1.0)
        for _ in range(5):
            model.weight.grad = torch.full((1, 4), float(hvd.rank()), dtype=torch.float64)
            optimizer.step()
        mine = model.weight[0, 0].item()
        optimizer.synchronize()
        print("X", hvd.rank(), mine, model.weight[0, 0].item(), optimizer.comm.ledger["round"].collectives)
    """
    timeline = tmp_path / "timeline.json"
    done = python_ranks(source, ranks, env={"HOROVOD_TIMELINE": str(timeline)})
    rows = sorted([float(word) for word in line.split()[1:]] for line in done.stdout.splitlines() if line[:1] == "X")
    assert [row[0] for row in rows] == list(range(ranks)) and all(row[3] == 0 for row in rows)
    told = timeline.read_text()
    assert len(re.findall('"NEGOTIATE_ALLREDUCE"', told)) == 2, "the average at the end, and the ranks' last meeting"
    assert len(re.findall(r'"allreduce\.hvdclip\.0\.end"', told)) == 1
    x = np.zeros(ranks)
    for k in range(1, 6):
        x -= k**-0.8 * np.minimum(1, k**0.2 / np.maximum(1e-9, 2 * np.arange(ranks))) * np.arange(ranks)
        x = np.array([np.mean([x[j] for j in {(i - 1) % ranks, i, (i + 1) % ranks}]) for i in range(ranks)])
    np.testing.assert_allclose([row[1] for row in rows], x, rtol=1e-12)
    np.testing.assert_allclose([row[2] for row in rows], x.mean(), rtol=1e-12)


def test_a_rank_that_failed_is_named_to_all_when_they_meet():
    def one(comm):
        model = point()
        optimizer = hvdclip.optimizer("decentralized_clip", model, comm=comm, lr=1.0, tau=1.0)
        for step in range(3):
            bad = (comm.rank, step) == (1, 1)
            model.weight.grad = torch.full((1, 4), math.nan if bad else 1.0, dtype=torch.float64)
            optimizer.step()
        with (
            pytest.raises(hvdclip.NonFiniteGradient, match="not finite on rank 1 at step 2"),
            optimizer.averaged(),
        ):
            pass
        optimizer.synchronize()
        return model.weight[0, 0].item()

    x = hvdclip.simulate(one, 3)
    assert len(set(x)) == 1 and math.isfinite(x[0])


def test_evaluation_in_the_midst_is_of_the_mean():
    def one(comm):
        model = point()
        optimizer = hvdclip.optimizer("decentralized_clip", model, comm=comm, lr=1.0, tau=10.0)
        model.weight.grad = torch.full((1, 4), float(comm.rank), dtype=torch.float64)
        optimizer.step()
        own = model.weight[0, 0].item()
        with optimizer.averaged():
            mean = model.weight[0, 0].item()
        assert model.weight[0, 0].item() == own
        return own, mean

    own, means = zip(*hvdclip.simulate(one, 5), strict=True)
    assert len(set(own)) > 1 and means == (pytest.approx(np.mean(own)),) * 5


# noise


@pytest.mark.parametrize(
    ("algorithm", "chosen"), [("clip21_sgd2m", {"tau": 1.0, "b2": 1.0}), ("norm_ec", {"alpha": 1.0, "beta": 1.0})]
)
def test_noise_has_the_deviation_asked_for_and_is_each_ranks_own(algorithm, chosen):
    size, ranks, deviation = 20_000, 4, 0.3

    def one(comm):
        model = point(size=size)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=1.0, noise=deviation, **chosen)
        model.weight.grad = torch.zeros(1, size, dtype=torch.float64)
        optimizer.step()
        name = "h" if algorithm == "clip21_sgd2m" else "v"
        return optimizer.vectors[name].flats[0].clone(), optimizer.vectors[f"{name}_i"].flats[0].abs().max()

    results = hvdclip.simulate(one, ranks)
    server = results[0][0]
    assert all(torch.equal(server, other) for other, _ in results)
    assert all(own == 0 for _, own in results), "what a rank keeps of its own message has no noise"
    # noise of independent ranks averages out; the same noise on all would keep its deviation
    assert server.std().item() == pytest.approx(deviation / math.sqrt(ranks), rel=0.05)
    assert abs(server.mean().item()) < 5 * deviation / math.sqrt(ranks * size)


# episode_pp


def test_more_participants_than_ranks_are_refused():
    def one(comm):
        hvdclip.optimizer("episode_pp", point(), comm=comm, lr=0.1, gamma=0.1, participants=5)

    with pytest.raises(ValueError, match="participants is 5; allowed: 1 to the number of ranks, which is 4"):
        hvdclip.simulate(one, 4)


@pytest.mark.parametrize(("ranks", "participants"), [(4, 2), (5, 3), (3, 3)])
def test_the_drift_of_episode_pp_is_the_mean_over_the_ranks_drawn(monkeypatch, ranks, participants):
    """Of NumPy's x_i right before an average; the optimizer tells it in the round after."""
    problem, steps, chosen = Quadratic(ranks), 24, {"lr": 0.1, "gamma": 0.15, "interval": 4}
    drifts = []

    def end(job):
        x = np.array([r.x for r in job.drawn])
        drifts.append(np.linalg.norm(x - x.mean(axis=0), axis=1).mean())
        rule.end(job)

    rule = reference.WITH_INTERVAL["episode_pp"]
    monkeypatch.setitem(reference.WITH_INTERVAL, "episode_pp", rule._replace(end=end))
    reference.run(
        "episode_pp",
        problem.gradient,
        problem.start(),
        ranks=ranks,
        steps=steps,
        lr=0.1,
        settings=chosen,
        participants=drawn(ranks, participants),
    )

    def one(comm):
        model, told, batch = Model(problem.start()), [], itertools.count()
        optimizer = hvdclip.optimizer("episode_pp", model, comm=comm, participants=participants, **chosen)
        optimizer.on_round = lambda: told.append(optimizer.last_round["drift"])

        def closure():
            optimizer.zero_grad()
            loss(problem, comm.rank, next(batch), model).backward()

        for _ in range(steps):
            optimizer.step(closure)
        return told

    assert len(drifts) == steps // 4 and min(drifts) > 0.01
    expected = [None, *(pytest.approx(drift, rel=1e-5) for drift in drifts[:-1])]
    assert hvdclip.simulate(one, ranks) == [expected] * ranks


def test_more_entries_than_parameters_are_refused():
    with pytest.raises(ValueError, match="k is 5; allowed: 1 to the number of parameters, which is 4"):
        hvdclip.optimizer("ef21_norm", point(), lr=0.1, k=5)


# weights


@pytest.mark.parametrize(("algorithm", "chosen"), [("local_sgd", {}), ("minibatch_sgd", {}), ("scaffold", {})])
def test_means_are_weighted(algorithm, chosen):
    def one(comm):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False)).double()
        nn.init.zeros_(model[0].weight)
        weight = (1.0, 2.0, 5.0)[comm.rank]
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=1.0, weight=weight, **chosen)
        model[1].running_mean.fill_(comm.rank)
        model[0].weight.grad = torch.full((1, 1), -float(comm.rank), dtype=torch.float64)
        optimizer.step()
        return model[0].weight.item(), model[1].running_mean.item()

    for x, mean in hvdclip.simulate(one, 3):
        assert x == pytest.approx((2 * 1 + 5 * 2) / 8) and mean == pytest.approx((2 * 1 + 5 * 2) / 8)


@pytest.mark.parametrize("algorithm", ["episode_pp", "decentralized_clip"])
def test_methods_of_plain_means_refuse_weights(algorithm):
    chosen = {"gamma": 0.1, "participants": 1} if algorithm == "episode_pp" else {"tau": 1.0}

    def one(comm):
        hvdclip.optimizer(algorithm, point(), comm=comm, lr=0.1, weight=1.0 + comm.rank, **chosen)

    with pytest.raises(ValueError, match="allowed: equal weights"):
        hvdclip.simulate(one, 2)


# quantiles of the gradient's norm


def test_quantiles_are_those_of_all_ranks_and_steps():
    norms = np.exp(np.random.default_rng(1).normal(size=(3, 40)))

    def one(comm):
        model = point(size=1)
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=1e-3, interval=40)
        for norm in norms[comm.rank]:
            model.weight.grad = torch.full((1, 1), norm, dtype=torch.float64)
            optimizer.step()
        return optimizer.last_round

    for metrics in hvdclip.simulate(one, 3):
        for name, share in (("grad_norm_p50", 0.5), ("grad_norm_p90", 0.9), ("grad_norm_p99", 0.99)):
            exact = np.quantile(norms, share, method="inverted_cdf")
            assert metrics[name] == pytest.approx(exact, rel=2 ** (1 / 16) - 1)
        assert metrics["grad_norm"] == pytest.approx(norms.mean(), rel=1e-5)


def test_quantiles_at_the_edges():
    model = point(size=1)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=1e-30, interval=4)
    for norm in (0.0, 1e-12, 1e12, 1e30):
        model.weight.grad = torch.full((1, 1), norm, dtype=torch.float64)
        optimizer.step()
    found = optimizer.last_round
    assert found["grad_norm_p50"] == 0 and found["grad_norm_p99"] > 1e6
    assert quantiles(torch.zeros(322)) == {"grad_norm_p50": None, "grad_norm_p90": None, "grad_norm_p99": None}


# wrong settings


@pytest.mark.parametrize(
    ("algorithm", "chosen", "said"),
    [
        ("clip21", {"tau": -1.0}, "tau is -1.0; allowed: greater than 0"),
        ("clip21_sgd2m", {"tau": 0.0}, "tau is 0.0; allowed: greater than 0"),
        ("clip21_sgd2m", {"tau": 1.0, "b2": 1.1}, "b2 is 1.1; allowed: less than or equal to 1"),
        ("clip21_sgd2m", {"tau": 1.0, "noise": -1.0}, "noise is -1.0; allowed: greater than or equal to 0"),
        ("ef21_norm", {"b": 0.0}, "b is 0.0; allowed: greater than 0"),
        ("ef21_norm", {"b": 2.0}, "b is 2.0; allowed: less than or equal to 1"),
        ("ian_sgd", {"beta": 0.0, "delta": 0.1, "floor": 1.0}, "beta is 0.0; allowed: greater than 0"),
        ("mix_clip", {"gamma": 1.0, "beta": -0.1}, "beta is -0.1; allowed: greater than or equal to 0"),
        ("norm_ec", {"alpha": 0.1, "beta": -1.0}, "beta is -1.0; allowed: greater than 0"),
        (
            "decentralized_clip",
            {"tau": 1.0, "tau_growth": 0.6},
            "lr_decay is 1.0 and tau_growth 0.6; allowed",
        ),
        ("decentralized_clip", {"tau": 1.0, "interval": 2}, "interval: unknown setting"),
        ("bucket_clip", {"gamma": 1.0, "interval": 2}, "interval: unknown setting"),
        ("sketched", {"gamma": 1.0, "width": 0, "server_lr": 0.1}, "width is 0; allowed: greater than or equal to 1"),
        (
            "sketched",
            {"gamma": 1.0, "width": 5, "server_lr": 0.1, "outer": "sgd", "outer_lr": 1.0},
            "outer is 'sgd'; allowed: none",
        ),
        ("episode_pp", {"gamma": 1.0, "participants": 0}, "participants is 0; allowed: greater than or equal to 1"),
        ("spider_clip", {"gamma": 1.0, "anchor_every": 0}, "anchor_every is 0; allowed: greater than or equal to 1"),
        ("celgc", {"gamma": 1.0, "outer": "sgd"}, "outer is 'sgd', which needs outer_lr"),
        ("celgc", {"gamma": 1.0, "outer_lr": 0.7}, "outer_lr is 0.7, but outer is 'none'"),
        (
            "celgc",
            {"gamma": 1.0, "outer": "adam", "outer_lr": 0.1, "outer_momentum": 0.5},
            "outer_momentum is 0.5, but",
        ),
        ("celgc", {"gamma": 1.0, "weight": 0.0}, "weight is 0.0; allowed: greater than 0"),
        ("minibatch_sgd", {"outer": "sgd"}, "outer: unknown setting"),
    ],
)
def test_wrong_settings_are_one_clear_line(algorithm, chosen, said):
    with pytest.raises((ValueError, TypeError)) as raised:
        hvdclip.optimizer(algorithm, point(), **({"lr": 0.1} | chosen))
    assert said in str(raised.value) and "\n" not in str(raised.value)


# steps that are left out, halves, several optimizers


def test_a_method_of_ones_own_is_not_called_with_a_gradient_that_is_not_finite():
    class AdaGradNorm(LocalMethod):
        name, formula, paper, message_size, memory = "adagrad_norm", "-", "-", "P every I steps", "0"
        Settings = LocalSettings

        def local_step(self, g):
            self.numbers["b2"] = self.numbers.get("b2", 1.0) + g.norm() ** 2
            self.move(g, self.numbers["b2"] ** -0.5)

    model = point(1.0)
    method = AdaGradNorm(model, LocalSettings(lr=0.1, on_nonfinite="skip"), SingleRank())
    for value in (1.0, math.nan, 1.0):
        model.weight.grad = torch.full((1, 4), value, dtype=torch.float64)
        method.step()
    assert model.weight.isfinite().all() and method.numbers["b2"] == 9


@pytest.mark.parametrize(
    ("algorithm", "chosen"),
    [
        ("ian_sgd", {"beta": 0.5, "delta": 0.1, "floor": 1.0}),
        ("sgdol", {}),
        ("spider_clip", {"gamma": 1.0, "anchor_every": 10}),
    ],
)
def test_a_step_left_out_for_its_second_gradient_is_counted(algorithm, chosen):
    model = point(1.0)
    optimizer = hvdclip.optimizer(algorithm, model, lr=0.1, interval=4, on_nonfinite="skip", **chosen)
    calls = 0

    def closure(again=False):
        nonlocal calls
        calls += 1
        bad = calls == (3 if algorithm == "spider_clip" else 4)
        model.weight.grad = torch.full((1, 4), math.inf if bad else 1.0, dtype=torch.float64)

    for _ in range(4):
        optimizer.step(closure)
    assert optimizer.last_round["skipped"] == 1 and model.weight.isfinite().all()


def test_a_round_of_episode_without_a_correction_is_left_out_and_counted():
    def one(comm):
        model = point(1.0)
        optimizer = hvdclip.optimizer("episode", model, comm=comm, lr=0.1, gamma=1.0, interval=3, on_nonfinite="skip")
        calls = 0

        def closure():
            nonlocal calls
            calls += 1
            bad = (comm.rank, calls) == (1, 1)
            model.weight.grad = torch.full((1, 4), math.nan if bad else 1.0, dtype=torch.float64)

        for _ in range(3):
            optimizer.step(closure)
        return optimizer.last_round["skipped"], model.weight[0, 0].item()

    assert hvdclip.simulate(one, 2) == [(6, 1.0)] * 2


def test_float16_is_refused_where_squares_would_underflow():
    for algorithm, chosen in (("adam_prox", {}), ("sketched", {"gamma": 1.0, "width": 2, "server_lr": 0.1})):
        with pytest.raises(TypeError, match=f"{algorithm} squares gradients, for which float16 is too coarse"):
            hvdclip.optimizer(algorithm, point().half(), lr=0.1, **chosen)


@pytest.mark.parametrize(
    ("algorithm", "chosen"), [("minibatch_clip", {"gamma": 1.0}), ("scaffold_clip", {"gamma": 1.0})]
)
def test_means_of_many_large_float16_gradients_do_not_overflow(algorithm, chosen):
    model = point(1.0).half()
    optimizer = hvdclip.optimizer(algorithm, model, lr=0.1, interval=16, gamma=1.0)
    for _ in range(16):
        model.weight.grad = torch.full((1, 4), 3e4, dtype=torch.float16)
        optimizer.step()
    assert model.weight.isfinite().all() and optimizer.last_round["skipped"] == 0
    assert all(flat.isfinite().all() for vector in optimizer.vectors.values() for flat in vector.flats)


def test_every_gradient_of_a_clipped_large_batch_counts_as_clipped():
    model = point(1.0)
    optimizer = hvdclip.optimizer("minibatch_clip", model, lr=0.1, gamma=0.01, interval=4)
    for _ in range(4):
        model.weight.grad = torch.ones(1, 4, dtype=torch.float64)
        optimizer.step()
    assert optimizer.last_round["clip_fraction"] == 1


def test_an_optimizer_that_is_gone_leaves_the_model_alone():
    model = nn.Linear(2, 2)
    optimizer = hvdclip.optimizer("bucket_clip", model, lr=0.1, gamma=0.1)
    del optimizer
    gc.collect()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2)).sum().backward()
        optimizer.step()


# the outer step, weights and groups


def test_the_outer_step_starts_from_the_weights_that_are_there():
    model = point(0.0)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=1e-9, outer="sgd", outer_lr=0.5, outer_momentum=0.0)
    model.load_state_dict({"weight": torch.full((1, 4), 7.0)})
    model.weight.grad = torch.ones(1, 4, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 4), 7.0, dtype=torch.float64))


def test_equal_weights_are_equal_on_any_number_of_ranks():
    def one(comm):
        return hvdclip.optimizer("decentralized_clip", point(), comm=comm, lr=0.1, tau=1.0, weight=6000.0).weight

    assert hvdclip.simulate(one, 49) == [1.0] * 49


def test_a_group_with_lr_0_does_not_move_in_adam_prox():
    model = nn.Linear(2, 1)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.0}]
    before = model.bias.detach().clone()
    optimizer = hvdclip.optimizer("adam_prox", groups, lr=0.1, weight_decay=0.5)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.bias.detach(), before)


def test_evaluation_in_mid_round_is_of_the_ranks_drawn():
    def one(comm):
        model = point(0.0)
        optimizer = hvdclip.optimizer("episode_pp", model, comm=comm, lr=0.1, gamma=10.0, interval=4, participants=1)

        def closure():
            model.weight.grad = torch.full((1, 4), 1.0, dtype=torch.float64)

        optimizer.step(closure)
        with optimizer.averaged():
            return model.weight[0, 0].item()

    assert hvdclip.simulate(one, 4) == [pytest.approx(-0.1)] * 4


def test_decentralized_clip_stays_in_its_ball():
    def one(comm):
        model = point(0.0)
        optimizer = hvdclip.optimizer("decentralized_clip", model, comm=comm, lr=1.0, tau=10.0, radius=0.5)
        lengths = []
        for gradient in (0.0, -3.0, -3.0):
            model.weight.grad = torch.full((1, 4), gradient, dtype=torch.float64)
            optimizer.step()
            lengths.append(model.weight.norm().item())
        return lengths

    for lengths in hvdclip.simulate(one, 3):
        assert lengths == [0.0, pytest.approx(0.5), pytest.approx(0.5)]
