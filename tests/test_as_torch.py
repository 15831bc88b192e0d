"""torch's own list of optimizers and settings, each trained by hvdclip and by torch: equal on one rank."""

import copy
import io
import pickle
import sys
import types
import unittest
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import hvdclip
from hvdclip.torch_private import RELEASE, TAKES_NAMES

if "expecttest" not in sys.modules:
    try:
        import expecttest  # noqa: F401
    except ImportError:
        # torch's file of optimizers imports it, for a class that is not used here
        sys.modules["expecttest"] = types.SimpleNamespace(TestCase=unittest.TestCase)  # type: ignore[assignment]
from torch.testing._internal.common_optimizers import optim_db

# that file forbids to all of the process what its own tests must not do
torch.backends.__allow_nonbracketed_mutation_flag = True

# What may not be inside, or cannot be compared, and why.
NO_INNER = {
    "LBFGS": "needs several gradients a step; refused in words",
    "SparseAdam": "takes sparse gradients only, which hvdclip refuses in words",
}
METHODS = {
    "celgc": {"max_norm": 1e9},
    "local_sgd": {},
    "naive_parallel_clip": {"max_norm": 1e9},
}
STEPS = 6
torch_sgd = torch.optim.SGD


class Case:
    """One of torch's optimizers with settings."""

    def __init__(self, cls, kwargs, number):
        self.cls, self.kwargs, self.number = cls, dict(kwargs), number
        # a tensor is taken as the number that it is
        self.lr = float(self.kwargs.pop("lr", cls([nn.Parameter(torch.zeros(2, 2))]).defaults["lr"]))

    def torchs(self, params):
        return self.cls(params, lr=self.lr, **self.kwargs)

    def ours(self, method, params, **more):
        settings = METHODS[method] | more
        return hvdclip.optimizer(method, params, lr=self.lr, inner=partial(self.cls, **self.kwargs), **settings)

    def __repr__(self):
        return f"{self.cls.__name__}-{self.number}"


def cases_of_torch():
    for info in optim_db:
        if info.optim_cls.__name__ in NO_INNER:
            continue
        for number, given in enumerate(info.optim_inputs_func(device="cpu")):
            yield Case(info.optim_cls, given.kwargs, number)


CASES = list(cases_of_torch())
FIRST = [case for case in CASES if case.number == 0]
OWN = [case for case in CASES if case.cls is torch_sgd and not case.kwargs.get("maximize")]
by_method = pytest.mark.parametrize("method", METHODS)
by_kind = pytest.mark.parametrize("method", ["celgc", "naive_parallel_clip"])  # a local one, one of gradients
by_case = pytest.mark.parametrize("case", CASES, ids=repr)
by_optimizer = pytest.mark.parametrize("case", FIRST, ids=repr)
by_own = pytest.mark.parametrize("case", OWN, ids=repr)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))


def loss_at(model, step):
    draws = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=draws)
    return (model(x) - x[:, :2].sin()).square().mean()


def train(model, optimizer, steps=range(STEPS), schedule=None, clip=None):
    """x after each step."""
    way = []
    for step in steps:
        optimizer.zero_grad()
        loss_at(model, step).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(1.0)
        elif schedule is not None:
            schedule.step()
        way.append(flat(model))
    return torch.stack(way)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def own(case, method, params, **more):
    return hvdclip.optimizer(method, params, lr=case.lr, **case.kwargs, **(METHODS[method] | more))


# Trajectories


@by_method
@by_case
def test_the_way_is_that_of_the_inner_optimizer(case, method):
    mine, theirs = network(), network()
    same(train(mine, case.ours(method, mine)), train(theirs, case.torchs(theirs.parameters())))


@by_method
@by_own
def test_the_way_of_hvdclips_own_step_is_that_of_sgd(case, method):
    mine, theirs = network(), network()
    same(train(mine, own(case, method, mine)), train(theirs, case.torchs(theirs.parameters())))


@by_optimizer
@by_kind
def test_max_norm_is_clip_grad_norm(case, method):
    mine, theirs = network(), network()
    way = train(mine, case.ours(method, mine, max_norm=0.1))
    same(way, train(theirs, case.torchs(theirs.parameters()), clip=0.1))


@by_optimizer
def test_an_instance_and_named_parameters(case):
    mine, theirs = network(), network()
    inner = case.torchs(mine.named_parameters() if TAKES_NAMES else mine.parameters())
    optimizer = hvdclip.optimizer("local_sgd", mine.named_parameters(), lr=case.lr, inner=inner)
    same(train(mine, optimizer), train(theirs, case.torchs(theirs.parameters())))
    names = optimizer.state_dict()["param_groups"][0].get("param_names")
    assert names == (["0.weight", "2.weight"] if TAKES_NAMES else None)


# State


def reloaded(optimizer, other, weights_only=True):
    """The other one, with a state that has been a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=weights_only))
    return other


@by_method
@by_case
def test_a_state_is_saved_and_loaded(case, method):
    mine, again = network(), network()
    optimizer = case.ours(method, mine, **({"interval": 4} if method != "naive_parallel_clip" else {}))
    train(mine, optimizer, range(3))
    again.load_state_dict(mine.state_dict())
    resumed = case.ours(method, again, **({"interval": 4} if method != "naive_parallel_clip" else {}))
    reloaded(optimizer, resumed)
    assert resumed.steps == 3
    assert torch.equal(train(again, resumed, range(3, 6)), train(mine, optimizer, range(3, 6)))


@by_case
def test_a_state_of_torchs_optimizer_is_taken_over(case):
    mine, theirs = network(), network()
    theirs_optimizer = case.torchs(theirs.parameters())
    train(theirs, theirs_optimizer, range(3))
    mine.load_state_dict(theirs.state_dict())
    optimizer = reloaded(theirs_optimizer, case.ours("celgc", mine))
    same(train(mine, optimizer, range(3, 6)), train(theirs, theirs_optimizer, range(3, 6)))


@by_case
def test_and_torchs_takes_over_ours(case):
    mine, theirs = network(), network()
    optimizer = case.ours("celgc", mine)
    train(mine, optimizer, range(3))
    theirs.load_state_dict(mine.state_dict())
    theirs_optimizer = reloaded(optimizer, case.torchs(theirs.parameters()))
    same(train(mine, optimizer, range(3, 6)), train(theirs, theirs_optimizer, range(3, 6)))


@by_kind
@by_own
def test_the_momentum_is_taken_over_both_ways(case, method):
    mine, theirs = network(), network()
    theirs_optimizer = case.torchs(theirs.parameters())
    train(theirs, theirs_optimizer, range(3))
    mine.load_state_dict(theirs.state_dict())
    optimizer = reloaded(theirs_optimizer, own(case, method, mine))
    same(train(mine, optimizer, range(3, 6)), train(theirs, theirs_optimizer, range(3, 6)))
    back = network()
    back.load_state_dict(mine.state_dict())
    back_optimizer = case.torchs(back.parameters())
    back_optimizer.load_state_dict({key: optimizer.state_dict()[key] for key in ("state",)} | back_groups(case))
    same(train(back, back_optimizer, range(6, 9)), train(mine, optimizer, range(6, 9)))


def back_groups(case):
    return {"param_groups": case.torchs(network().parameters()).state_dict()["param_groups"]}


@by_optimizer
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_what_is_edited_in_a_state_holds(case, key):
    if key not in case.torchs(network().parameters()).defaults:
        pytest.skip(f"{case.cls.__name__} has no {key}")
    mine, theirs = network(), network()
    pairs = [(mine, case.ours("celgc", mine)), (theirs, case.torchs(theirs.parameters()))]
    ways = []
    for model, optimizer in pairs:
        train(model, optimizer, range(2))
        state = optimizer.state_dict()
        state["param_groups"][0][key] = 0.037
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0][key] == 0.037
        ways.append(train(model, optimizer, range(2, 5)))
    same(*ways)


@by_optimizer
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_goes_on_alike(case, how):
    model = network()
    optimizer = case.ours("celgc", model, interval=4)
    train(model, optimizer, range(3))
    both = (model, optimizer)
    other, its = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert torch.equal(train(other, its, range(3, 7)), train(model, optimizer, range(3, 7)))


# Schedulers, groups and closures

SCHEDULES = {
    "step": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.8),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    "plateau": partial(lr_scheduler.ReduceLROnPlateau, patience=1),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=STEPS + 1),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.05, step_size_up=2),
}


@by_optimizer
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule(case, name):
    mine, theirs = network(), network()
    ours, torchs = case.ours("celgc", mine), case.torchs(theirs.parameters())
    try:
        schedule = SCHEDULES[name](torchs)
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            SCHEDULES[name](ours)
        assert str(raised.value) == str(error)
        return
    same(train(mine, ours, schedule=SCHEDULES[name](ours)), train(theirs, torchs, schedule=schedule))


@by_kind
@by_own
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_hvdclips_own_step(case, name, method):
    mine, theirs = network(), network()
    ours, torchs = own(case, method, mine), case.torchs(theirs.parameters())
    if name in ("one cycle", "cyclic") and not case.kwargs.get("momentum"):
        with pytest.raises(ValueError, match="must support momentum or beta1"):
            SCHEDULES[name](ours)
        return
    same(train(mine, ours, schedule=SCHEDULES[name](ours)), train(theirs, torchs, schedule=SCHEDULES[name](torchs)))


@by_kind
@by_optimizer
def test_groups(case, method):
    mine, theirs = network(), network()

    def groups(model):
        first = {"params": list(model[0].parameters()), "name": "first", "lr": case.lr / 2}
        return [first, {"params": list(model[2].parameters()), "name": "last"}]

    ours, torchs = case.ours(method, groups(mine)), case.torchs(groups(theirs))
    ours.param_groups[0]["lr"] = case.lr / 2
    same(train(mine, ours), train(theirs, torchs))
    assert [group["name"] for group in ours.param_groups] == ["first", "last"]


@by_kind
@by_optimizer
def test_a_group_that_is_added(case, method):
    if case.cls is torch.optim.Adagrad and RELEASE < (2, 13):
        pytest.skip("Adagrad itself fails at the first step with an added group; so seen with torch 2.4 and 2.11")
    mine, theirs = network(), network()
    pairs = []
    for model, make in ((mine, partial(case.ours, method)), (theirs, case.torchs)):
        optimizer = make(list(model[0].parameters()))
        train(model, optimizer, range(2))
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": case.lr / 3})
        pairs.append(train(model, optimizer, range(2, 6)))
    same(*pairs)


@by_kind
@by_optimizer
@pytest.mark.parametrize("given", ["loss", "number", "dict", "one", "none"])
def test_a_closure(case, method, given):
    mine, theirs = network(), network()
    ways, give = [], GIVE[given]
    for model, optimizer in ((mine, case.ours(method, mine)), (theirs, case.torchs(theirs.parameters()))):

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_at(model, 0)
            loss.backward()
            return give(loss)

        returned = [optimizer.step(closure) for _ in range(3)]
        ways.append((flat(model), returned))
    same(ways[0][0], ways[1][0])
    assert str(ways[0][1]) == str(ways[1][1])


GIVE = {
    "loss": lambda loss: loss.detach(),
    "number": lambda loss: loss.item(),
    "dict": lambda loss: {"loss": loss.detach()},
    "one": lambda loss: loss.detach().reshape(1),
    "none": lambda loss: None,
}


# What is refused, in words


def test_what_is_refused():
    for name in NO_INNER:
        cls = getattr(torch.optim, name)
        with pytest.raises((ValueError, TypeError)) as raised:
            model = nn.Embedding(3, 2, sparse=True) if name == "SparseAdam" else network()
            optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, inner=cls)
            model(torch.tensor([1])).sum().backward()
            optimizer.step()
        assert name in str(raised.value) or "sparse" in str(raised.value)


def test_there_are_many_cases():
    assert {case.cls.__name__ for case in CASES} | set(NO_INNER) == {info.optim_cls.__name__ for info in optim_db}
    assert 2 * len(METHODS) * len(CASES) + 15 * len(FIRST) >= 400
