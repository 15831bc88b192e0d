"""The optimizer that users hold: torch's protocol, models of all kinds, policies, failures."""

import io
import math

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, settings_of
from torch import nn

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.methods import METHODS, GradientMethod


def regression(seed, n=24):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 4, generator=generator)
    return inputs, inputs.sum(dim=1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator)


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)


def backward(model, rank=0, step=0):
    inputs, targets = regression(100 * rank + step)
    dtype = next(model.parameters()).dtype
    loss = (model(inputs.to(dtype)) - targets.to(dtype)).pow(2).mean()
    loss.backward()
    return loss


def train(model, optimizer, steps, rank=0, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        backward(model, rank, step)
        optimizer.step()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# groups, schedules, closures


def test_one_norm_over_all_groups_and_each_groups_own_lr():
    model = network(dtype=torch.float64)
    before = [p.detach().clone() for p in model.parameters()]
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5, "weight_decay": 0.1}]
    optimizer = hvdclip.optimizer("celgc", groups, lr=0.1, gamma=0.01, interval=2)
    backward(model)
    g = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    s = 0.01 / 0.1 / (1e-10 + math.sqrt(sum(part.square().sum().item() for part in g)))
    assert s < 1
    expected = [x - 0.1 * s * d for x, d in zip(before[:2], g[:2], strict=True)]
    expected += [x - 0.5 * s * (d + 0.1 * x) for x, d in zip(before[2:], g[2:], strict=True)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], expected)
    assert optimizer.steps == 1  # torch issue 74737: the counter moves once, not once per group


@pytest.mark.parametrize("follows", [True, False])
def test_schedules_scale_gamma_with_lr_unless_told_not_to(follows):
    model = network(dtype=torch.float64)
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.001, gamma_follows_lr=follows)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.5)
    train(model, optimizer, 1)
    schedule.step()
    before = flat(model)
    train(model, optimizer, 1)
    assert (flat(model) - before).norm().item() == pytest.approx(0.0005 if follows else 0.001)
    assert optimizer.last_round["lr"] == pytest.approx(0.05)
    assert optimizer.last_round["gamma"] == pytest.approx(0.0005 if follows else 0.001)


def test_step_scale_scales_eta_and_gamma_of_a_step():
    moved = []
    for scale in (1.0, 0.5):
        model = network(dtype=torch.float64)
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.001)
        before = flat(model)
        optimizer.step_scale = scale
        train(model, optimizer, 1)
        moved.append(flat(model) - before)
    torch.testing.assert_close(moved[1], 0.5 * moved[0])


def test_gamma_and_max_norm_are_two_spellings():
    models = [network(), network()]
    for model, spelling in zip(models, ({"gamma": 0.02}, {"max_norm": 0.2}), strict=True):
        train(model, hvdclip.optimizer("celgc", model, lr=0.1, interval=3, **spelling), 7)
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_hooks_and_profilers_are_told_of_steps():
    model, told = network(), []
    optimizer = hvdclip.optimizer("celgc", model, comm=SingleRank(), lr=0.1, gamma=0.1, interval=2)
    before = optimizer.register_step_pre_hook(lambda *_: told.append("before"))
    after = optimizer.register_step_post_hook(lambda *_: told.append("after"))
    train(model, optimizer, 1)
    before.remove()
    after.remove()
    train(model, optimizer, 1)
    assert told == ["before", "after"] and optimizer.steps == 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train(model, optimizer, 1)
    assert "Optimizer.step#CELGC.step" in {event.key for event in profiler.key_averages()}


def test_a_closure_gives_the_gradient_and_its_loss_is_recorded():
    model = network()
    optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=2)
    other = network()
    losses = []
    for step in range(2):

        def closure(step=step):
            optimizer.zero_grad()
            return backward(model, step=step)

        losses.append(optimizer.step(closure).item())
    train(other, hvdclip.optimizer("local_sgd", other, lr=0.1, interval=2), 2)
    assert torch.equal(flat(model), flat(other))
    assert optimizer.last_round["loss"] == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize(
    ("inner", "built"),
    [
        (torch.optim.AdamW, lambda p: torch.optim.AdamW(p, lr=0.01)),
        ("Adam", lambda p: torch.optim.Adam(p, lr=0.01)),
        ({"name": "RMSprop", "alpha": 0.5}, lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.5)),
    ],
)
def test_any_torch_optimizer_takes_the_clipped_gradient(inner, built):
    model, other = network(dtype=torch.float64), network(dtype=torch.float64)
    optimizer = hvdclip.optimizer("celgc", model, lr=0.01, max_norm=0.3, interval=4, inner=inner)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    theirs = built(other.parameters())
    their_schedule = torch.optim.lr_scheduler.StepLR(theirs, 2, gamma=0.1)
    for step in range(6):
        train(model, optimizer, 1, first=step)
        schedule.step()
        theirs.zero_grad()
        backward(other, step=step)
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.3)
        theirs.step()
        their_schedule.step()
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-5, atol=1e-6)


def test_an_inner_optimizer_of_ones_own_over_other_parameters_is_refused():
    with pytest.raises(ValueError, match="inner is an optimizer of other parameters"):
        hvdclip.optimizer("celgc", network(), lr=0.1, gamma=1.0, inner=torch.optim.Adam(network().parameters(), lr=0.1))


def test_gradient_methods_hand_the_mean_gradient_to_the_inner_optimizer():
    def one(comm):
        model = network(dtype=torch.float64)
        optimizer = hvdclip.optimizer("minibatch_sgd", model, comm=comm, lr=0.01, inner=torch.optim.AdamW)
        train(model, optimizer, 5, rank=comm.rank)
        return flat(model)

    x = hvdclip.simulate(one, 2)
    model = network(dtype=torch.float64)
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(5):
        adamw.zero_grad()
        for rank in range(2):
            backward(model, rank, step)
        for p in model.parameters():
            p.grad /= 2
        adamw.step()
    torch.testing.assert_close(x[0], flat(model))
    assert torch.equal(x[0], x[1])


# models of all kinds


class Tied(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=dtype)
        self.second = nn.Linear(4, 4, dtype=dtype)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(3, 3, dtype=dtype)
        self.frozen = nn.Linear(4, 1, dtype=dtype)
        self.frozen.requires_grad_(False)

    def forward(self, inputs):
        return self.frozen(self.second(torch.tanh(self.first(inputs))))


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_tied_frozen_and_unused_parameters(algorithm):
    def one(comm):
        torch.manual_seed(comm.rank)
        model = Tied()
        own_frozen = model.frozen.weight.clone()
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.05)
        unused = model.unused.weight.clone()
        train(model, optimizer, 4, rank=comm.rank)
        assert model.second.weight is model.first.weight
        assert torch.equal(model.unused.weight, unused)
        # 4x4 shared weight once, two biases of 4, unused 3x3 + 3
        assert optimizer.space.size == 16 + 8 + 12
        return own_frozen, model.frozen.weight.clone(), flat(model)

    results = hvdclip.simulate(one, 2)
    assert all(torch.equal(frozen, results[0][0]) for _, frozen, _ in results), "frozen ones start as rank 0's"
    assert all(torch.equal(x, results[0][2]) for _, _, x in results)


def test_ranks_start_from_rank_0s_parameters_and_buffers():
    def one(comm):
        torch.manual_seed(comm.rank)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        model[1].running_mean += comm.rank
        model[1].num_batches_tracked += comm.rank
        hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=1.0)
        return torch.cat([t.flatten().double() for t in model.state_dict().values()])

    x = hvdclip.simulate(one, 3)
    assert torch.equal(x[1], x[0]) and torch.equal(x[2], x[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_other_dtypes_follow_float32(dtype, algorithm):
    def one(comm, dtype):
        model = network(dtype=dtype)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.05, gamma=0.02, momentum=0.5)
        train(model, optimizer, 6, rank=comm.rank)
        assert all(p.dtype == dtype for p in model.parameters())
        return flat(model).double()

    exact = hvdclip.simulate(lambda comm: one(comm, torch.float32), 2)
    other = hvdclip.simulate(lambda comm: one(comm, dtype), 2)
    assert torch.equal(other[0], other[1])
    moved = (exact[0] - flat(network()).double()).norm()
    assert moved > 0.05
    tolerance = {torch.float64: 1e-5, torch.bfloat16: 0.4, torch.float16: 0.05}[dtype]
    assert (other[0] - exact[0]).norm() < tolerance * moved


def test_parameters_of_several_dtypes_in_one_model():
    def one(comm):
        model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3).double(), nn.Linear(3, 1).bfloat16())
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p)
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=2)
        norms = []
        for step in range(4):
            inputs, targets = regression(10 * comm.rank + step)
            optimizer.zero_grad()
            hidden = model[1](model[0](inputs).double())
            (model[2](hidden.bfloat16()) - targets.bfloat16()).float().pow(2).mean().backward()
            norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters())))
            optimizer.step()
        assert optimizer.last_round["grad_norm"] > 0
        return flat(model), comm.ledger["round"].collectives, norms

    results = hvdclip.simulate(one, 2)
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == 2 * 2, "one collective per dtype and round: bfloat16 travels as float32"


def test_half_precision_norms_do_not_overflow():
    model = nn.Linear(4, 1, bias=False).half()
    optimizer = hvdclip.optimizer("celgc", model, lr=1.0, gamma=1.0)
    model.weight.grad = torch.full((1, 4), 3e4, dtype=torch.float16)
    before = model.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close((before - model.weight).float(), torch.full((1, 4), 0.5), rtol=1e-2, atol=1e-2)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="no parameter to train"):
        hvdclip.optimizer("local_sgd", nn.Linear(2, 2).requires_grad_(False), lr=0.1)
    with pytest.raises(TypeError, match="complex64"):
        hvdclip.optimizer("local_sgd", [nn.Parameter(torch.zeros(2, dtype=torch.complex64))], lr=0.1)
    with pytest.raises(ValueError, match="are on cpu, meta"):
        hvdclip.optimizer(
            "local_sgd", [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))], lr=1
        )

    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = hvdclip.optimizer("local_sgd", embedding, lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse"):
        optimizer.step()

    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=1.0, interval=2)
    with pytest.warns(UserWarning, match=r"call backward\(\) before step"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="in the middle of a round"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    model.double()
    backward(model)
    with pytest.raises(RuntimeError, match=r"before hvdclip\.optimizer"):
        optimizer.step()


@pytest.mark.parametrize(
    ("algorithm", "chosen", "error", "said"),
    [
        ("celcg", {"lr": 0.1}, ValueError, "'celcg' is unknown; allowed: local_sgd, celgc, fedprox"),
        ("celgc", {"gamma": 1.0}, TypeError, "lr: missing"),
        ("celgc", {"lr": 0.1}, ValueError, "exactly one of gamma and max_norm"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "max_norm": 1.0}, ValueError, "exactly one of gamma and max_norm"),
        ("celgc", {"lr": -1.0, "gamma": 1.0}, ValueError, "lr is -1.0; allowed: greater than 0"),
        ("celgc", {"lr": math.nan, "gamma": 1.0}, ValueError, "lr is nan"),
        ("celgc", {"lr": "0.1", "gamma": 1.0}, TypeError, "lr is '0.1'"),
        ("celgc", {"lr": 0.1, "gamma": 0.0}, ValueError, "gamma is 0.0; allowed: greater than 0"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "interval": 0}, ValueError, "interval is 0"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "interval": 2.5}, ValueError, "interval is 2.5"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "intervall": 2}, TypeError, "did you mean interval"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "momentum": 1.0}, ValueError, "momentum is 1.0; allowed: less than 1"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "nesterov": True}, ValueError, "needs momentum > 0"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "norm_of": "update", "inner": "Adam"}, ValueError, "norm_of is 'update'"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "inner": "Adamm"}, ValueError, "optimizers of torch.optim"),
        ("mix_clip", {"lr": 0.1, "gamma": 1.0, "beta": 1.0}, ValueError, "beta is 1.0; allowed: less than 1"),
        ("mix_clip", {"lr": 0.1, "gamma": 1.0, "nu": 1.5}, ValueError, "nu is 1.5; allowed: less than or equal to 1"),
        ("mom_clip", {"lr": 0.1, "gamma": 1.0, "nu": 1.0}, TypeError, "nu: unknown setting"),
        ("delta_gclip", {"lr": 0.1, "gamma": 1.0}, TypeError, "delta: missing; delta, the smallest share of eta"),
        ("delta_gclip", {"lr": 0.1, "gamma": 1.0, "delta": 0.1, "momentum": 0.9}, TypeError, "momentum: unknown"),
        ("clip21", {"lr": 0.1, "tau": 0.0}, ValueError, "tau is 0.0; allowed: greater than 0"),
        ("clip21", {"lr": 0.1, "tau": 1.0, "interval": 2}, TypeError, "interval: unknown setting"),
        ("norm_ec", {"lr": 0.1, "alpha": 0.1, "beta": 0.0}, ValueError, "beta is 0.0; allowed: greater than 0"),
        ("clip21_sgd2m", {"lr": 0.1, "tau": 1.0, "b1": 0.0}, ValueError, "b1 is 0.0; allowed: greater than 0"),
        (
            "ian_sgd",
            {"lr": 0.1, "beta": 1.5, "delta": 0.1, "floor": 1.0},
            ValueError,
            "beta is 1.5; allowed: less than",
        ),
        ("fedprox", {"lr": 0.1, "mu": -1.0}, ValueError, "mu is -1.0; allowed: greater than or equal to 0"),
        ("celgc", {"lr": 0.1, "gamma": 1.0, "buffer_policy": "sum"}, ValueError, "'average', 'keep', 'broadcast'"),
        ("naive_parallel_clip", {"lr": 0.1, "gamma": 1.0, "interval": 4}, TypeError, "interval: unknown setting"),
        ("minibatch_sgd", {"lr": 0.1, "gamma": 1.0}, TypeError, "gamma: unknown setting"),
    ],
)
def test_wrong_settings_name_the_setting_the_value_and_what_is_allowed(algorithm, chosen, error, said):
    with pytest.raises(error) as raised:
        hvdclip.optimizer(algorithm, network(), **chosen)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_ranks_that_disagree_on_a_setting_are_told_so():
    def one(comm):
        hvdclip.optimizer("celgc", network(), comm=comm, lr=0.1, gamma=1.0, interval=4 + comm.rank)

    with pytest.raises(ValueError, match=r"ranks disagree on interval; .*\n  rank .*\n  0 .* 4\n  1 .* 5\n  2 .* 6"):
        hvdclip.simulate(one, 3)


# buffers


class Counting(nn.Module):
    """A float buffer, integer and boolean ones, and one that is no part of the state."""

    def __init__(self, rank):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("cache", torch.full((2,), float(rank)), persistent=False)
        self.rank = rank

    def forward(self, inputs):
        self.mean += self.rank + 1
        self.count += (-1) ** self.rank * (3 * 2**40 + self.rank)
        self.flags[self.rank % 3] = True
        return self.linear(inputs)


@pytest.mark.parametrize("algorithm", ["local_sgd", "minibatch_sgd"])
@pytest.mark.parametrize("policy", ["average", "keep", "broadcast"])
def test_buffer_policies(policy, algorithm):
    def one(comm):
        model = Counting(comm.rank)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, buffer_policy=policy)
        train(model, optimizer, 1, rank=comm.rank)
        return model

    models = hvdclip.simulate(one, 3)
    for rank, model in enumerate(models):
        mean = rank + 1.0 if policy == "keep" else 1.0  # rank 0's, since it is no batch norm's statistic
        torch.testing.assert_close(model.mean, torch.full((2,), mean))
        of = rank if policy == "keep" else 0
        assert model.count.item() == (-1) ** of * (3 * 2**40 + of)
        assert model.flags.tolist() == [of == i for i in range(3)]
        assert model.cache.tolist() == [rank, rank]


def test_a_buffer_that_the_module_rebinds_takes_part():
    class Rebinding(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("drawn", torch.zeros(()))

        def forward(self, inputs):
            self.seen = self.seen + 1 + rank_of.index
            self.drawn = self.drawn + 1 + rank_of.index
            return super().forward(inputs)

    class rank_of:
        index = 0

    def one(comm):
        model = Rebinding()
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, buffer_policy={"seen": "average"})
        rank_of.index = comm.rank
        train(model, optimizer, 1)
        return model.seen.item(), model.drawn.item()

    assert hvdclip.simulate(one, 2) == [(1.5, 1.0), (1.5, 1.0)]


def test_one_ranks_broken_statistics_do_not_spread():
    def one(comm):
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=2, on_nonfinite="skip")
        for step in range(4):
            inputs, targets = regression(10 * comm.rank + step)
            optimizer.zero_grad()
            (model(inputs) - targets).pow(2).mean().backward()
            if (comm.rank, step) == (1, 1):
                model[1].running_mean.fill_(math.nan)  # in a step that is taken
            if step == 1:
                own = model[1].running_mean.clone()
            optimizer.step()
            if step == 1:
                shared = model[1].running_mean.clone()
        return own, shared, model[1].running_var.clone()

    (mine, shared, var), (broken, received, other_var) = hvdclip.simulate(one, 2)
    assert broken.isnan().all() and torch.equal(shared, mine) and torch.equal(received, mine)
    assert var.isfinite().all() and torch.equal(var, other_var)


def test_broadcast_buffers_arrive_bit_for_bit():
    def one(comm):
        model = nn.Linear(4, 1)
        model.register_buffer("third", torch.full((2,), 1 / 3, dtype=torch.float64))
        model.register_buffer("wave", torch.tensor([0.1 + 0.7j]))
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, buffer_policy="broadcast")
        model.third += comm.rank
        model.wave *= 1 + comm.rank
        train(model, optimizer, 1)
        return model.third, model.wave

    for third, wave in hvdclip.simulate(one, 3):
        assert third.tolist() == [1 / 3, 1 / 3] and torch.equal(wave, torch.tensor([0.1 + 0.7j]))


def test_what_requires_a_gradient_is_averaged_outside_of_steps_too():
    def one(comm):
        model = nn.Linear(4, 1)
        model.register_buffer("scale", torch.full((2,), float(comm.rank), requires_grad=True))
        settings = {"lr": 0.1, "gamma": 0.1, "interval": 2, "buffer_policy": {"*": "average"}}
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, **settings)
        train(model, optimizer, 1)
        with torch.no_grad():
            model.scale.fill_(comm.rank)
        optimizer.synchronize()
        return model.scale.tolist()

    assert hvdclip.simulate(one, 3) == [[1.0, 1.0]] * 3


# averaged, synchronize, statistics


def test_averaged_in_mid_round_leaves_half_precision_momentum_alone():
    def one(comm, look):
        model = network(dtype=torch.bfloat16)
        momentum = {"momentum": 0.9, "momentum_policy": "average"}
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.05, interval=3, **momentum)
        for step in range(5):
            train(model, optimizer, 1, rank=comm.rank, first=step)
            if look:
                with optimizer.averaged():
                    pass
        payload = comm.ledger["evaluation"].bytes
        assert payload == (4 * 4 * optimizer.space.size if look else 0), (
            "one average of P, in float32, in each of four looks"
        )
        return flat(model)

    looked = hvdclip.simulate(lambda comm: one(comm, True), 2)
    for x, y in zip(looked, hvdclip.simulate(lambda comm: one(comm, False), 2), strict=True):
        assert torch.equal(x, y)


def test_averaged_shows_the_mean_model_and_leaves_the_local_one():
    def one(comm):
        model = Counting(comm.rank)
        settings = {"gamma": 0.5, "interval": 3, "momentum": 0.9, "buffer_policy": {"mean": "average"}}
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, **settings)
        seen = []
        for step in range(7):
            train(model, optimizer, 1, rank=comm.rank, first=step)
            local, count, mean = flat(model), model.count.clone(), model.mean.clone()
            before = comm.ledger["evaluation"].collectives
            with optimizer.averaged():
                inside, inside_mean = flat(model), model.mean.clone()
            assert comm.ledger["evaluation"].collectives - before == (0 if step in (2, 5) else 1), "free at a round end"
            assert torch.equal(flat(model), local) and torch.equal(model.mean, mean) and model.count == count
            seen.append((local, inside, mean, inside_mean))
        return seen

    ranks = hvdclip.simulate(one, 2)
    for (a, inside_a, mean_a, mean_in_a), (b, inside_b, mean_b, mean_in_b) in zip(*ranks, strict=True):
        assert torch.equal(inside_a, inside_b) and torch.equal(mean_in_a, mean_in_b)
        torch.testing.assert_close(inside_a, (a + b) / 2)
        torch.testing.assert_close(mean_in_a, (mean_a + mean_b) / 2)


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_evaluation_between_steps_does_not_change_training(algorithm):
    def one(comm, evaluate):
        model = network()
        interval = {"interval": 4} if algorithm == "celgc" else {}
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.05, momentum=0.9, **interval)
        metrics = []
        for step in range(9):
            train(model, optimizer, 1, rank=comm.rank, first=step)
            if evaluate:
                with optimizer.averaged(), torch.no_grad():
                    model(torch.zeros(1, 4))
            metrics.append({k: v for k, v in optimizer.last_round.items() if not k.endswith("_s") and k != "slowest"})
        optimizer.synchronize()
        return flat(model), metrics

    for (x, metrics), (y, others) in zip(
        hvdclip.simulate(lambda comm: one(comm, True), 2),
        hvdclip.simulate(lambda comm: one(comm, False), 2),
        strict=True,
    ):
        assert torch.equal(x, y) and metrics == others


def test_synchronize_completes_the_last_round_once():
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.5, interval=4)
        train(model, optimizer, 6, rank=comm.rank)
        local = flat(model)
        optimizer.synchronize()
        optimizer.synchronize()
        assert optimizer.rounds == 2 and comm.ledger["round"].collectives == 2
        assert optimizer.last_round["step"] == 6
        train(model, optimizer, 4, rank=comm.rank)  # a full round follows
        assert optimizer.rounds == 3
        return local, flat(model)

    (a, x), (b, y) = hvdclip.simulate(one, 2)
    assert not torch.equal(a, b) and torch.equal(x, y)


def test_last_round_tells_what_happened():
    interval, ranks, steps = 3, 2, 9

    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, comm=comm, lr=0.1, gamma=0.1, interval=interval)
        rounds, before, losses, norms = [], [], [], []
        assert optimizer.last_round == {}
        for step in range(steps):
            x = flat(model)
            optimizer.zero_grad()
            loss = backward(model, comm.rank, step)
            g = torch.cat([p.grad.flatten() for p in model.parameters()])
            losses.append(loss.item())
            norms.append(g.norm().item())
            if (step + 1) % interval == 0:
                before.append(x - min(0.1, 0.1 / norms[-1]) * g)
            optimizer.record(loss=loss, samples=24)
            optimizer.step()
            if optimizer.steps_in_round == 0:
                rounds.append(optimizer.last_round)
        return rounds, before, losses, norms, optimizer.space.size, optimizer.statistics.size

    results = hvdclip.simulate(one, ranks)
    for number, metrics in enumerate(results[0][0]):
        span = slice(number * interval, (number + 1) * interval)
        losses = [value for result in results for value in result[2][span]]
        norms = [value for result in results for value in result[3][span]]
        assert metrics["step"] == (number + 1) * interval and metrics["round"] == number + 1
        assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)
        assert metrics["clip_fraction"] == sum(norm > 1 for norm in norms) / len(norms)
        assert metrics["samples"] == 24 * interval * ranks and metrics["ranks"] == ranks
        assert metrics["bytes"] == 4 * (results[0][4] + results[0][5])
        assert metrics["lr"] == 0.1 and metrics["gamma"] == pytest.approx(0.1) and metrics["interval"] == interval
        if number == 0:
            assert metrics["drift"] is None
        else:
            a, b = (result[1][number - 1] for result in results)
            assert metrics["drift"] == pytest.approx(((a - b) / 2).norm().item(), rel=1e-4)


def test_statistics_of_gradient_methods():
    def one(comm, algorithm):
        model = network()
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.1)
        backward(model, comm.rank)
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
        optimizer.step()
        return norm, optimizer.last_round

    for algorithm, fraction in (("naive_parallel_clip", 1.0), ("clip_then_average", 1.0)):
        (a, metrics), (b, others) = hvdclip.simulate(lambda comm, name=algorithm: one(comm, name), 2)
        assert metrics["grad_norm"] == pytest.approx((a + b) / 2, rel=1e-5)
        assert metrics["clip_fraction"] == others["clip_fraction"] == fraction
        assert metrics["drift"] == 0 and metrics["interval"] is None


def test_drift_can_be_left_out():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, drift=False)
    train(model, optimizer, 3)
    assert optimizer.last_round["drift"] is None and optimizer.averaging.rule.before is None


def test_two_optimizers_on_one_communicator_count_their_own_bytes():
    def one(comm):
        models = [nn.Linear(4, 1), nn.Linear(4, 3)]
        optimizers = [hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1) for model in models]
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        return [(o.last_round["bytes"], 4 * o.message.wires[torch.float32].numel()) for o in optimizers]

    assert all(told == sent for told, sent in hvdclip.simulate(one, 2)[1])


# state


def test_a_state_of_another_interval_or_shape():
    model = network()
    optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=5)
    train(model, optimizer, 3)
    shorter = hvdclip.optimizer("local_sgd", network(), lr=0.1, interval=2)
    shorter.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"state vectors: none, .*this optimizer is of .* state vectors: momentum"):
        hvdclip.optimizer("local_sgd", network(), lr=0.1, momentum=0.9).load_state_dict(optimizer.state_dict())
    model = network()
    shorter = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=2)
    shorter.load_state_dict(optimizer.state_dict())
    train(model, shorter, 1)
    assert shorter.steps_in_round == 0 and shorter.rounds == 1, "the overdue average comes at once"
    with pytest.raises(ValueError, match=r"2 ranks.*1 ranks|1 ranks.*2 ranks"):
        hvdclip.simulate(
            lambda comm: hvdclip.optimizer("local_sgd", network(), comm=comm, lr=0.1).load_state_dict(
                optimizer.state_dict()
            ),
            2,
        )


STATEFUL = [
    (algorithm, settings_of(algorithm, saved, gamma=0.05, interval=3))
    for algorithm, row in ALGORITHMS.items()
    for saved in row.saved
]


@pytest.mark.parametrize(("algorithm", "chosen"), STATEFUL)
def test_a_saved_and_loaded_optimizer_goes_on_bit_identically(algorithm, chosen):
    class Run:
        """A model in training; `batch` says where it is in its data."""

        def __init__(self, comm):
            self.comm, self.batch, self.model = comm, 0, network()
            self.optimizer = hvdclip.optimizer(algorithm, self.model, comm=comm, **({"lr": 0.1} | chosen))
            self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.7)
            self.parts = (self.model, self.optimizer, self.schedule)

        def closure(self, again=False):
            self.batch += not again
            self.optimizer.zero_grad()
            return backward(self.model, self.comm.rank, self.batch)

        def steps(self, number):
            for _ in range(number):
                self.optimizer.step(self.closure)
                self.schedule.step()

        def result(self):
            with self.optimizer.averaged():
                return flat(self.model), self.optimizer.rounds

    def whole(comm):
        run = Run(comm)
        run.steps(11)
        return run.result()

    def in_two(comm):
        run = Run(comm)
        run.steps(5)  # in the middle of a round
        file = io.BytesIO()
        torch.save([part.state_dict() for part in run.parts], file)
        file.seek(0)
        resumed = Run(comm)
        resumed.batch = run.batch
        for part, state in zip(resumed.parts, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        resumed.steps(6)
        return resumed.result()

    for (x, rounds), (y, others) in zip(hvdclip.simulate(whole, 2), hvdclip.simulate(in_two, 2), strict=True):
        assert torch.equal(x, y) and rounds == others


def test_another_methods_state_is_refused():
    state = hvdclip.optimizer("local_sgd", network(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match="of method 'local_sgd', but this optimizer's method is 'celgc'"):
        hvdclip.optimizer("celgc", network(), lr=0.1, gamma=1.0).load_state_dict(state)
    with pytest.raises(ValueError, match="of method None"):
        hvdclip.optimizer("local_sgd", network(), lr=0.1).load_state_dict(
            torch.optim.Adam(network().parameters(), lr=0.1).state_dict()
        )


# gradients that are not finite


def poisoned(comm, algorithm, bad, steps=8, **chosen):
    model = network()
    optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.05, **chosen)
    x, raised = [flat(model)], []
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, comm.rank, step)
        if (comm.rank, step + 1) in bad:
            model[0].weight.grad[0, 0] = bad[comm.rank, step + 1]
        try:
            optimizer.step()
        except hvdclip.NonFiniteGradient as error:
            raised.append((step + 1, str(error)))
        x.append(flat(model))
    return x, raised, optimizer


BAD = {(1, 2): math.nan, (1, 3): math.inf, (0, 7): -math.inf}


@pytest.mark.parametrize("chosen", [{}, {"norm_of": "update", "momentum": 0.9}, {"inner": "Adam"}, {"momentum": 0.9}])
def test_local_methods_leave_x_unchanged_and_raise_on_all_ranks_at_the_end_of_the_round(chosen):
    results = hvdclip.simulate(lambda comm: poisoned(comm, "celgc", BAD, interval=4, **chosen), 2)
    for x, raised, _ in results:
        assert [step for step, _ in raised] == [4, 8]
        assert "not finite on rank 1 at step 2" in raised[0][1] and "rank 0 at step 7" in raised[1][1]
        assert all(values.isfinite().all() for values in x)
    assert torch.equal(results[1][0][1], results[1][0][2]) and torch.equal(results[1][0][2], results[1][0][3])
    assert not torch.equal(results[0][0][1], results[0][0][2])


@pytest.mark.parametrize("chosen", [{}, {"norm_of": "update", "momentum": 0.9}, {"inner": "Adam"}])
def test_skipped_steps_are_counted_and_training_goes_on(chosen):
    results = hvdclip.simulate(lambda comm: poisoned(comm, "celgc", BAD, interval=4, on_nonfinite="skip", **chosen), 2)
    for x, raised, optimizer in results:
        assert not raised and optimizer.steps == 8 and optimizer.last_round["skipped"] == 1
        assert x[-1].isfinite().all() and torch.equal(x[-1], results[0][0][-1])
        assert math.isfinite(optimizer.last_round["grad_norm"])


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip", "bucket_clip", "minibatch_clip"])
def test_a_loss_that_is_not_finite_leaves_its_step_out_though_the_gradient_is_finite(algorithm):
    def one(comm, policy):
        model = network()
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.05, on_nonfinite=policy)
        x, skipped = [flat(model)], 0
        for step in range(3):
            optimizer.zero_grad()
            loss = backward(model, comm.rank, step)
            optimizer.record(loss=loss * (math.inf if (comm.rank, step) == (1, 1) else 1.0))
            optimizer.step()
            skipped += optimizer.last_round["skipped"]
            x.append(flat(model))
        return x, skipped

    for x, skipped in hvdclip.simulate(lambda comm: one(comm, "skip"), 2):
        assert skipped == 1 and x[-1].isfinite().all() and not torch.equal(x[2], x[3])
        assert torch.equal(x[1], x[2]) == (algorithm != "celgc"), "a rank's own step, or that of all"
    with pytest.raises(hvdclip.NonFiniteGradient, match=r"the loss, .* is not finite on rank 1 at step 2"):
        hvdclip.simulate(lambda comm: one(comm, "raise"), 2)


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_the_loss_of_a_round_is_the_mean_of_those_that_are_finite(algorithm, kind):
    rounds = np.array(  # of each rank's steps
        [
            [[1.0, math.nan, 2.0, 6.0], [math.inf, -math.inf, 3.0, 8.0]],
            [[math.nan] * 4, [math.inf] * 4],
            [[4.0, 1.0, 1.0, 1.0], [1.0, 2.0, 4.0, 8.0]],
        ]
    )

    def one(comm):
        model = network()
        chosen = settings_of(algorithm, interval=4)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, on_nonfinite="skip", **chosen)
        told = []
        for losses in rounds[:, comm.rank].reshape(-1):
            optimizer.zero_grad()
            backward(model, comm.rank)
            optimizer.record(loss=kind(losses.item()))
            optimizer.step()
            if optimizer.steps_in_round == 0:
                told.append(optimizer.last_round["loss"])
        return told

    in_rounds = rounds if algorithm == "celgc" else rounds.transpose(0, 2, 1).reshape(-1, 2, 1)
    finite = [losses[np.isfinite(losses)] for losses in in_rounds]
    expected = [pytest.approx(losses.mean()) if losses.size else None for losses in finite]
    assert hvdclip.simulate(one, 2) == [expected, expected]


GRADIENT_METHODS = [
    (algorithm, settings_of(algorithm, left_out, gamma=0.05))
    for algorithm, row in ALGORITHMS.items()
    for left_out in row.left_out
    if issubclass(METHODS[algorithm], GradientMethod)
]


@pytest.mark.parametrize(("algorithm", "chosen"), GRADIENT_METHODS)
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_gradient_methods_leave_the_step_out_on_all_ranks(algorithm, chosen, policy):
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, on_nonfinite=policy, **chosen)
        x, raised = [flat(model)], []
        for step in range(5):
            optimizer.zero_grad()
            backward(model, comm.rank, step)
            if (comm.rank, step) == (1, 2):
                model[0].weight.grad[0, 0] = math.nan
            try:
                optimizer.step()
            except hvdclip.NonFiniteGradient as error:
                raised.append(str(error))
            x.append(flat(model))
        return x, raised

    results = hvdclip.simulate(one, 2)
    for x, raised in results:
        assert torch.equal(x[2], x[3]) and not torch.equal(x[3], x[4]) and x[5].isfinite().all()
        assert len(raised) == (policy == "raise") and all("rank 1 at step 3" in text for text in raised)
        assert torch.equal(x[5], results[0][0][5])


def test_a_step_left_out_leaves_the_momentum_where_it_was():
    def one(comm):
        model = nn.Linear(1, 1, bias=False)
        chosen = {"norm_of": "update", "momentum": 0.5, "on_nonfinite": "skip"}
        optimizer = hvdclip.optimizer("clip_then_average", model, comm=comm, lr=0.1, gamma=10.0, **chosen)
        seen = []
        for gradient in (1.0, math.nan if comm.rank else 1.0, 1.0):
            model.weight.grad = torch.full((1, 1), gradient)
            optimizer.step()
            seen.append(optimizer.vectors["momentum"].flats[0].item())
        return seen

    assert hvdclip.simulate(one, 2) == [[1.0, 1.0, 1.5]] * 2


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_grad_scaler_unscales_before_the_clip_and_an_overflow_desynchronises_nobody(algorithm):
    def one(comm, scale):
        model = network(dtype=torch.float64)
        interval = {"interval": 3} if algorithm == "celgc" else {}
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, gamma=0.05, **interval)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        x = []
        for step in range(6):
            optimizer.zero_grad()
            inputs, targets = regression(100 * comm.rank + step)
            loss = (model(inputs.double()) - targets).pow(2).mean()
            scaler.scale(loss).backward()
            if scale != 1 and (comm.rank, step) == (1, 3):
                model[0].weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            x.append(flat(model))
        return x, optimizer.steps, optimizer.last_round["skipped"], scaler.get_scale()

    scaled = hvdclip.simulate(lambda comm: one(comm, 1024.0), 2)
    plain = hvdclip.simulate(lambda comm: one(comm, 1.0), 2)
    for rank in range(2):
        torch.testing.assert_close(scaled[rank][0][:3], plain[rank][0][:3])
        assert scaled[rank][1] == 6
        assert torch.equal(scaled[rank][0][-1], scaled[0][0][-1])
    assert torch.equal(scaled[1][0][3], scaled[1][0][2]), "the rank that overflowed stays"
    if algorithm == "celgc":
        assert not torch.equal(scaled[0][0][3], scaled[0][0][2]) and scaled[0][2] == 1
        assert scaled[1][3] == 512 and scaled[0][3] == 1024, "each rank has a scale of its own"
    else:
        assert torch.equal(scaled[0][0][3], scaled[0][0][2])


def test_the_scaler_may_unscale_first():
    x = []
    for unscale in (False, True):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for step in range(3):
            optimizer.zero_grad()
            inputs, targets = regression(step)
            scaler.scale((model(inputs) - targets).pow(2).mean()).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        x.append(flat(model))
    torch.testing.assert_close(x[0], x[1])


def test_a_norm_that_overflows_is_no_overflow_of_the_scale():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.05)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(0.0)
    backward(model)
    model[0].weight.grad.fill_(3e38)
    with pytest.raises(hvdclip.NonFiniteGradient, match="the gradient or its norm"):
        optimizer.step()


@pytest.mark.parametrize(
    "momentum", [{"momentum": 0.5, "dampening": 0.5}, {"momentum": 0.5, "momentum_policy": "keep"}]
)
def test_the_first_momentum_is_the_first_good_direction(momentum):
    model = nn.Linear(1, 1, bias=False)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=1.0, on_nonfinite="skip", **momentum)
    before = model.weight.item()
    for gradient in (math.nan, 1.0):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    assert model.weight.item() == pytest.approx(before - 1.0)


def test_a_gradient_in_another_memory_format_is_applied_in_the_right_order():
    model = nn.Linear(4, 4, bias=False)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=1.0)
    before, gradient = model.weight.detach().clone(), torch.randn(4, 4).t()
    model.weight.grad = gradient.clone(memory_format=torch.preserve_format)
    assert not model.weight.grad.is_contiguous()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - gradient)


@pytest.mark.parametrize("chosen", [{}, {"inner": "SGD"}])
def test_a_tiny_clip_factor_does_not_vanish_in_float16(chosen):
    model = nn.Linear(1, 1, bias=False).half()
    optimizer = hvdclip.optimizer("clip_then_average", model, lr=1.0, gamma=1e-3, **chosen)
    before = model.weight.float().item()
    model.weight.data.zero_()
    model.weight.grad = torch.full((1, 1), 3e4, dtype=torch.float16)
    optimizer.step()
    assert model.weight.item() == pytest.approx(-1e-3, rel=1e-2) and before != 0


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_a_parameter_that_got_other_memory_is_noticed(algorithm):
    model = network()
    optimizer = hvdclip.optimizer(algorithm, model, lr=0.1, gamma=0.1)
    model[2].weight.data = model[2].weight.data.clone()
    backward(model)
    with pytest.raises(RuntimeError, match="no longer in the optimizer's vector"):
        optimizer.step()


@pytest.mark.parametrize("change", ["buffer", "dtype", "group"])
def test_ranks_with_different_models_are_told_so(change):
    def one(comm):
        model = network()
        groups = [{"params": model.parameters(), "lr": 0.1}]
        if comm.rank == 1 and change == "buffer":
            model.register_buffer("extra", torch.zeros(3))
        if comm.rank == 1 and change == "dtype":
            model.double()
        if comm.rank == 1 and change == "group":
            groups[0]["lr"] = 0.2
        hvdclip.optimizer("celgc", groups if change == "group" else model, comm=comm, lr=0.1, gamma=1.0)

    with pytest.raises(ValueError, match=r"ranks disagree on parameter.*\n  rank .*\n  0 .*\n  1 .*"):
        hvdclip.simulate(one, 2)


def test_parameters_may_come_named_or_twice_and_groups_may_be_frozen():
    model = Tied()
    shared = hvdclip.optimizer("local_sgd", [*model.first.parameters(), *model.second.parameters()], lr=0.1)
    assert shared.space.size == 16 + 8
    assert hvdclip.optimizer("local_sgd", Tied().named_parameters(), lr=0.1).space.size == 16 + 8 + 12
    groups = [{"params": model.frozen.parameters()}, {"params": model.unused.parameters()}]
    optimizer = hvdclip.optimizer("local_sgd", groups, lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda epoch: 1.0, lambda epoch: 0.5])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([{"lr": 0.1}], ValueError, "parameter group has keys lr; allowed: params, lr, weight_decay"),
        ([{"params": network().parameters(), "lr": "0.1"}], ValueError, "parameter group lr is '0.1'"),
        ([{"params": network().parameters(), "momentum": 0.1}], ValueError, "keys params, momentum"),
        (torch.zeros(3), TypeError, "a tensor was given"),
    ],
)
def test_wrong_parameters(given, error, said):
    with pytest.raises(error) as raised:
        hvdclip.optimizer("local_sgd", given, lr=0.1)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"inner": torch.optim.LBFGS}, "inner is LBFGS"),
        ({"inner": torch.optim.Rprop, "weight_decay": 0.1}, "inner, Rprop, does not have it"),
        ({"momentum_policy": "average"}, "needs momentum > 0"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(chosen, said):
    with pytest.raises(ValueError, match=said):
        hvdclip.optimizer("local_sgd", network(), lr=0.1, **chosen)


def test_an_inner_optimizer_with_another_lr_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"inner's lr is 0\.001, lr is 1\.0; allowed: equal values"):
        hvdclip.optimizer("local_sgd", model, lr=1.0, inner=torch.optim.Adam(model.parameters(), lr=0.001))


def test_one_rank_alone_needs_no_communicator():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.5, interval=2)
    assert isinstance(optimizer.comm, SingleRank)
    train(model, optimizer, 4)
    assert optimizer.last_round["bytes"] == 0 and optimizer.last_round["ranks"] == 1


def test_algorithms_lists_every_method():
    listed = hvdclip.algorithms()
    assert [row["name"] for row in listed] == list(METHODS)
    for row in listed:
        assert all(row[key] for key in ("formula", "paper", "message", "memory", "extra gradients"))


TWO_GRADIENTS = [name for name in ALGORITHMS if METHODS[name].extra_gradients != "none"]


@pytest.mark.parametrize("algorithm", TWO_GRADIENTS)
def test_a_second_gradient_needs_a_closure(algorithm):
    model = network()
    chosen = settings_of(algorithm, ALGORITHMS[algorithm].second, gamma=0.05)
    if "participants" in chosen:
        chosen["participants"] = 1
    optimizer = hvdclip.optimizer(algorithm, model, **({"lr": 0.1} | chosen))
    backward(model)
    with pytest.raises(TypeError, match=rf"{algorithm} needs a second gradient: call step\(closure\)"):
        optimizer.step()


@pytest.mark.parametrize("algorithm", TWO_GRADIENTS)
@pytest.mark.parametrize("bad_call", [1, 2, 5])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_second_gradient_that_is_not_finite_poisons_nobody(algorithm, bad_call, set_to_none):
    chosen = settings_of(algorithm, ALGORITHMS[algorithm].second, gamma=0.05, interval=2)

    def one(comm):
        model = network()
        settings = {"lr": 0.1, "on_nonfinite": "skip"} | chosen
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **settings)
        calls = 0

        def closure(again=False):
            nonlocal calls
            calls += 1
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = backward(model, comm.rank, calls)
            if (comm.rank, calls) == (1, bad_call):
                model[0].weight.grad[0, 0] = math.nan
            return loss

        for _ in range(8):
            optimizer.step(closure)
        return flat(model)

    x = hvdclip.simulate(one, 2)
    assert torch.equal(x[0], x[1]) and x[0].isfinite().all() and not torch.equal(x[0], flat(network()))


def test_episode_corrections_cancel_over_the_ranks():
    def one(comm):
        model = network(dtype=torch.float64)
        optimizer = hvdclip.optimizer("episode", model, comm=comm, lr=0.1, gamma=0.05, interval=3)

        def closure():
            optimizer.zero_grad()
            return backward(model, comm.rank, optimizer.steps)

        optimizer.step(closure)
        assert comm.ledger["round"].collectives == 1, "G; x follows at the end of the round"
        return (optimizer.vectors["G"] - optimizer.vectors["G_i"]).parts

    for parts in zip(*hvdclip.simulate(one, 3), strict=True):
        torch.testing.assert_close(sum(parts), torch.zeros_like(parts[0]), rtol=0, atol=1e-12)
