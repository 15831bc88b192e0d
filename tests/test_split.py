"""One inner optimizer for matrices and another for all else: the same in plain torch, its groups, its state."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import hvdclip
from hvdclip.config import check
from hvdclip.engine.split import embeddings

MUON = {"matrices": {"name": "Muon", "lr": 0.02, "momentum": 0.9}, "others": {"name": "AdamW", "betas": (0.8, 0.9)}}
SGD = {"matrices": {"name": "SGD", "momentum": 0.9}, "others": {"name": "AdamW", "lr": 0.01}}
LR, MAX_NORM, EVERY, STEPS, WORDS = 0.003, 1.0, 3, 10, 11
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")
INNERS = [pytest.param(MUON, marks=needs_muon, id="Muon"), pytest.param(SGD, id="SGD")]


class Language(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.table, self.first, self.norm = nn.Embedding(WORDS, 4), nn.Linear(4, 8), nn.LayerNorm(8)
        self.second, self.head = nn.Linear(8, 4, bias=False), nn.Linear(4, WORDS)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(self.second(torch.tanh(self.norm(self.first(self.table(words))))))

    @property
    def x(self):
        return np.concatenate([p.detach().flatten().double().numpy() for p in self.parameters()])


MATRICES = ("first.weight", "second.weight")


def fresh(dtype=torch.float64, **how):
    torch.manual_seed(0)
    return Language(**how).to(dtype)


def backward(model, rank, step):
    words = torch.randint(WORDS, (6,), generator=torch.Generator().manual_seed(100 * rank + step))
    model.zero_grad()
    nn.functional.cross_entropy(model(words), words.flip(0)).backward()


def build(comm, inner, model=None, **settings):
    model = model or fresh()
    chosen = {"lr": LR, "max_norm": MAX_NORM, "interval": EVERY, "inner": inner}
    return model, hvdclip.optimizer("celgc", model, comm=comm, **chosen | settings)


def steps(model, optimizer, first=0, last=STEPS, scheduler=None):
    rows = []
    for step in range(first, last):
        backward(model, optimizer.comm.rank, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        rows.append(model.x)
    return rows


def halved(t):
    return 0.5 ** (t // 4)


def recomputed(ranks, inner, weight_decay, dtype=torch.float64):
    """(steps, ranks, P): torch's own optimizers by name, one clip over all gradients, and means of all parameters."""
    models, optimizers = [fresh(dtype) for _ in range(ranks)], []
    for model in models:
        named = dict(model.named_parameters())
        small = [p for p in named.values() if p.dim() == 1]
        tables = [named["table.weight"], named["head.weight"]]
        pair = []
        for kind, groups in (
            ("matrices", [{"params": [named[name] for name in MATRICES], "weight_decay": weight_decay}]),
            ("others", [{"params": tables, "weight_decay": weight_decay}, {"params": small, "weight_decay": 0.0}]),
        ):
            told = {"lr": LR} | inner[kind]
            pair.append(getattr(torch.optim, told.pop("name"))(groups, **told))
        optimizers.append((pair, [torch.optim.lr_scheduler.LambdaLR(each, halved) for each in pair]))
    rows = []
    for step in range(STEPS):
        for rank, (model, (pair, schedulers)) in enumerate(zip(models, optimizers, strict=True)):
            backward(model, rank, step)
            norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
            # max_norm is for the first learning rate: gamma = lr * max_norm, and both follow the schedule
            for p in model.parameters():
                p.grad.mul_(min(1.0, MAX_NORM / (1e-10 + norm.item())))
            for each in (*pair, *schedulers):
                each.step()
        if (step + 1) % EVERY == 0:
            with torch.no_grad():
                for same in zip(*(model.parameters() for model in models), strict=True):
                    mean = torch.stack(same).mean(dim=0)
                    for p in same:
                        p.copy_(mean)
        rows.append([model.x for model in models])
    return np.array(rows)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("inner", INNERS)
def test_matrices_and_others_move_as_torchs_optimizers_move_them(inner, ranks):
    def one(comm):
        model, optimizer = build(comm, inner, weight_decay_on="weights", weight_decay=0.1)
        return steps(model, optimizer, scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, halved))

    found = np.array(hvdclip.simulate(one, ranks)).transpose(1, 0, 2)
    np.testing.assert_allclose(found, recomputed(ranks, inner, 0.1), rtol=1e-10, atol=1e-12)


@needs_muon
def test_float32_moves_too():
    def one(comm):
        model, optimizer = build(comm, MUON, fresh(torch.float32), weight_decay_on="weights", weight_decay=0.1)
        return steps(model, optimizer, scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, halved))

    found = np.array(hvdclip.simulate(one, 2)).transpose(1, 0, 2)
    np.testing.assert_allclose(found, recomputed(2, MUON, 0.1, torch.float32), rtol=1e-4, atol=1e-5)


def test_groups_have_their_kinds_rates_and_decays():
    model, optimizer = build(None, SGD, weight_decay_on="weights", weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [
        (group["inner"], group["lr"], group["weight_decay"], {names[id(p)] for p in group["params"]})
        for group in optimizer.param_groups
    ]
    assert found == [
        ("matrices", LR, 0.1, set(MATRICES)),
        ("others", 0.01, 0.1, {"table.weight", "head.weight"}),
        ("others", 0.01, 0.0, {"first.bias", "norm.weight", "norm.bias", "head.bias"}),
    ]
    assert optimizer.eta == LR


def test_tables_heads_and_tied_weights_are_no_matrices():
    def names(model):
        found = embeddings(model)
        return {name for name, p in model.named_parameters() if id(p) in found}

    assert names(fresh()) == {"table.weight", "head.weight"}
    assert names(fresh(tied=True)) == {"table.weight"}
    assert names(nn.Sequential(nn.Linear(4, 11), nn.Linear(11, 11))) == set()
    classifier = nn.Sequential(nn.EmbeddingBag(WORDS, 4), nn.Linear(4, WORDS), nn.Linear(WORDS, 2))
    assert names(classifier) == {"0.weight"}, "the last layer has two outputs, and the one before it is no head"
    _, optimizer = build(None, SGD, fresh(tied=True))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 5]


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("cut", [4, 6])
def test_a_run_that_is_resumed_or_copied_is_the_same_to_the_bit(inner, cut):
    def one(comm):
        model, optimizer = build(comm, inner, state_intervals={"momentum_buffer": 1, "exp_avg": 2})
        steps(model, optimizer, 0, cut)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        copied = copy.deepcopy((model, optimizer))
        whole = steps(model, optimizer, cut)
        model, optimizer = build(comm, inner, state_intervals={"momentum_buffer": 1, "exp_avg": 2})
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        return np.array_equal(whole, steps(model, optimizer, cut)), np.array_equal(whole, steps(*copied, cut))

    assert hvdclip.simulate(one, 2) == [(True, True)] * 2


def test_both_optimizers_states_are_averaged_when_they_are_due():
    def one(comm):
        model, optimizer = build(comm, SGD, state_intervals={"momentum_buffer": 1, "exp_avg": 2})
        found = []
        for last in (EVERY, 2 * EVERY):
            steps(model, optimizer, last - EVERY, last)
            kept = [optimizer.state[model.first.weight]["momentum_buffer"], optimizer.state[model.norm.bias]["exp_avg"]]
            found.append([state.double().sum().item() for state in kept])
        return found

    (first, second), (also, too) = hvdclip.simulate(one, 2)
    assert first[0] == also[0] and first[1] != also[1] and second == too


def test_a_step_that_is_left_out_moves_neither():
    model, optimizer = build(None, SGD, on_nonfinite="skip")
    steps(model, optimizer, 0, 2)
    before, state = model.x, copy.deepcopy(optimizer.state_dict()["state"])
    backward(model, 0, 2)
    model.norm.bias.grad[0] = float("nan")
    optimizer.step()
    assert np.array_equal(model.x, before)
    for place, kept in optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            assert value is None or torch.equal(torch.as_tensor(value), torch.as_tensor(state[place][name]))


def test_frozen_parameters_are_trained_by_their_kind_once_they_are_not():
    model = fresh()
    model.second.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    _, optimizer = build(None, SGD, model)
    steps(model, optimizer, 0, EVERY)
    model.second.weight.requires_grad_(True)
    model.norm.bias.requires_grad_(True)
    steps(model, optimizer, EVERY, 3 * EVERY)
    assert "momentum_buffer" in optimizer.state[model.second.weight]
    assert "exp_avg" in optimizer.state[model.norm.bias]


def test_groups_may_say_who_moves_them():
    model = fresh()
    given = [{"params": [model.head.weight, model.first.weight], "inner": "matrices"}]
    given += [{"params": [model.second.weight], "inner": "others", "betas": (0.5, 0.6), "lr": 2 * LR}]
    optimizer = hvdclip.optimizer("local_sgd", given, lr=LR, inner=SGD)
    steps(model, optimizer, 0, 2)
    assert "momentum_buffer" in optimizer.state[model.head.weight] and "exp_avg" in optimizer.state[model.second.weight]
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.6)
    assert optimizer.param_groups[1]["lr"] == 0.02, "as its own rate is to the common one"


def test_a_state_of_other_groups_is_refused():
    _, optimizer = build(None, SGD)
    state = optimizer.state_dict()
    state["param_groups"][0]["inner"] = "others"
    with pytest.raises(
        ValueError, match=r"the state's groups are of \['others', 'others'\], but this optimizer's are of"
    ):
        optimizer.load_state_dict(state)


def test_parameters_are_not_added():
    _, optimizer = build(None, SGD)
    with pytest.raises(ValueError, match="inner has matrices and others; allowed: all parameters when"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})


@needs_muon
def test_a_job_of_yaml_takes_both():
    mistakes = "inner.* valid optimizer for others; .*unexpected keyword argument 'bets'"
    job = {
        "algorithm": {"name": "celgc", "lr": 0.01, "gamma": 0.1, "interval": 2, "inner": MUON},
        "model": {"name": "lstm", "hidden": 8, "embedding": 8},
        "data": "stdlib",
        "train": {"steps": 2},
    }
    check(job)
    job["algorithm"]["state_intervals"] = {"exp_avg": 1, "momentum_buffer": 2}
    check(job)
    job["algorithm"]["state_intervals"] = {"exp_avs": 1}
    with pytest.raises(
        ValueError, match="'exp_avs'; allowed with Muon and AdamW: momentum_buffer, exp_avg, exp_avg_sq"
    ):
        check(job)
    job["algorithm"]["inner"] = MUON | {"others": {"name": "AdamW", "bets": 1}}
    with pytest.raises(ValueError, match=mistakes):
        check(job)


REFUSED = [
    ({"inner": {"matrices": "SGD"}}, "allowed: exactly the keys matrices and others"),
    ({"inner": SGD | {"tables": "SGD"}}, "allowed: exactly the keys matrices and others"),
    (
        {"inner": SGD | {"others": "AdamV"}},
        "a valid optimizer for others; 'AdamV': allowed are the optimizers of torch.optim",
    ),
    ({"inner": SGD | {"others": None}}, "inner's others is none; allowed are a torch optimizer's class or name"),
    (
        {"inner": SGD | {"others": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}},
        "inner's others is an instance of SGD; allowed",
    ),
    ({"inner": SGD | {"matrices": "LBFGS"}}, "an optimizer for matrices that needs one gradient a step, not 'LBFGS'"),
    ({"inner": SGD | {"others": {"name": "AdamW", "weight_decay": 0.2}}, "weight_decay": 0.1}, "inner's weight_decay"),
    (
        {"inner": SGD, "model": nn.LayerNorm(3)},
        "inner has matrices, but no parameter is a matrix; allowed: AdamW as inner",
    ),
    ({"inner": SGD, "model": list(fresh().parameters())}, "allowed: a module, module=, or groups that say 'inner'"),
    ({"inner": SGD, "model": [{"params": [nn.Parameter(torch.zeros(2, 2))], "inner": "all"}]}, "inner is 'all'; allow"),
    (
        {"inner": "SGD", "model": [{"params": [nn.Parameter(torch.zeros(2, 2))], "inner": "others"}]},
        "parameter group has keys params, inner",
    ),
]
OF_MUON = [
    (
        {"inner": "Muon"},
        r"Muon is for matrices, but a parameter has shape \(8,\); allowed: inner {matrices: {name: Muon",
    ),
    (
        {"inner": MUON, "model": [{"params": [nn.Parameter(torch.zeros(2))], "inner": "matrices"}]},
        r"Muon is for matrices, but a parameter has shape \(2,\)",
    ),
]


@pytest.mark.parametrize(
    ("settings", "match"), [*REFUSED, *(pytest.param(*case, marks=needs_muon) for case in OF_MUON)], ids=str
)
def test_wrong_settings_are_refused_in_a_line(settings, match):
    with pytest.raises((ValueError, TypeError), match=match) as caught:
        build(None, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inner", ["Muon", MUON], ids=str)
def test_a_torch_without_muon_says_so(inner, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"Muon only with torch 2\.9 or later; this is torch") as caught:
        build(None, inner)
    assert "\n" not in str(caught.value)
