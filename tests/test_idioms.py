"""What programs do to an optimizer beside step(): copy it, hook into it, hand it over to Horovod, add parameters."""

import collections
import copy
import gc
import operator
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, settings_of
from launch import python_ranks
from torch import nn

import hvdclip
from hvdclip.methods import Disagreement
from hvdclip.torch_private import TAKES_NAMES

ADAMW = {"inner": torch.optim.AdamW}
MOMENTUM = {"momentum": 0.9, "dampening": 0.1}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 2))


def train(model, optimizer, steps, rank=0):
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * rank + step))
        loss = (model(x) - x[:, :2].sin()).square().mean()
        loss.backward()
        optimizer.record(loss=loss)
        optimizer.step()
    return flat(model)


def flat(model):
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def states_equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(states_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(states_equal, one, other))
    return one == other


# Copies

COPIED = {
    "celgc": {"gamma": 0.05, "interval": 4},
    "celgc momentum": {"gamma": 0.05, "interval": 4, "norm_of": "update", **MOMENTUM},
    "celgc adamw": {"gamma": 0.05, "interval": 4, **ADAMW},
    "local_sgd average": {"interval": 4, "momentum": 0.9, "momentum_policy": "average"},
    "local_sgd outer": {"interval": 3, "outer": "nesterov", "outer_lr": 0.7},
    "local_sgd delayed": {"interval": 4, "overlap": "delayed", "delay": 2},
    "local_sgd fragments": {"interval": 2, "averaging": "fragments", "fragments": 2},
    "celgc topk": {"gamma": 0.05, "interval": 3, "compression": "topk", "top_share": 0.2},
    "scaffold": {"interval": 4, "momentum": 0.5},
    "adam_prox": {"interval": 4},
    "naive_parallel_clip": {"gamma": 0.05, **MOMENTUM},
    "bucket_clip": {"gamma": 0.05, "bucket_mb": 0.00005},
    "norm_ec": {"alpha": 0.1, "beta": 0.5, "noise": 0.1},
    "ef21_norm": {"k": 3},
}
HOW = {"deepcopy": copy.deepcopy, "pickle": lambda both: pickle.loads(pickle.dumps(both))}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", COPIED)
def test_a_copy_goes_on_like_the_original(case, how):
    def one(comm):
        model = network(comm.rank)
        optimizer = hvdclip.optimizer(case.split()[0], model, lr=0.05, comm=comm, **COPIED[case])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
        train(model, optimizer, range(5), comm.rank)
        schedule.step()
        other, its = HOW[how]((model, optimizer))
        assert its.comm is comm and its.steps == 5 and its.eta == optimizer.eta and its.gamma == optimizer.gamma
        mine = [p for group in its.param_groups for p in group["params"]]
        assert all(p is q for p, q in zip(mine, other.parameters(), strict=True)), "over the copy's parameters"
        assert not {p.data_ptr() for p in mine} & {p.data_ptr() for p in model.parameters()}
        assert states_equal(its.state_dict(), optimizer.state_dict())
        x = train(other, its, range(5, 12), comm.rank)
        its.synchronize()
        y = train(model, optimizer, range(5, 12), comm.rank)
        optimizer.synchronize()
        assert torch.equal(x, y)
        return flat(model), flat(other)

    for ranks in (1, 2):
        for x, y in hvdclip.simulate(one, ranks):
            assert torch.equal(x, y)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_copied(algorithm):
    def one(comm):
        model = nn.Linear(4, 2)
        saved = ALGORITHMS[algorithm].saved
        settings = {"lr": 0.1} | settings_of(algorithm, saved[0] if saved else {}, gamma=0.05, interval=3)
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **settings)

        def steps(model, optimizer, first, last):
            batch = first

            def closure(again=False):
                nonlocal batch
                batch += not again
                optimizer.zero_grad()
                draws = torch.Generator().manual_seed(100 * comm.rank + batch)
                loss = model(torch.randn(8, 4, generator=draws)).square().mean()
                loss.backward()
                return loss

            for _ in range(first, last):
                optimizer.step(closure)
            return flat(model)

        steps(model, optimizer, 0, 5)
        both = copy.deepcopy((model, optimizer))
        return torch.equal(steps(*both, 100, 106), steps(model, optimizer, 100, 106))

    assert all(hvdclip.simulate(one, 2))


def test_a_copy_averages_on_its_node_too():
    def one(comm):
        model = network(comm.rank)
        optimizer = hvdclip.optimizer("local_sgd", model, lr=0.05, comm=comm, interval=4, node_interval=2)
        train(model, optimizer, range(3), comm.rank)
        for how in HOW.values():
            other, its = how((model, optimizer))
            assert its.averaging.rule.node.comm is optimizer.averaging.rule.node.comm
            x = train(other, its, range(3, 9), comm.rank)
        train(model, optimizer, range(3, 9), comm.rank)
        return torch.equal(x, flat(model)) and its.last_round["bytes"] == optimizer.last_round["bytes"]

    assert all(hvdclip.simulate(one, 4, ranks_per_node=2))


def test_an_optimizer_alone_brings_its_model_along_and_one_rank_may_copy_alone():
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=4, comm=comm, weight=1.0 + comm.rank)
        train(model, optimizer, range(2), comm.rank)
        if comm.rank == 1:
            its = copy.deepcopy(optimizer)
            assert its.weight == optimizer.weight != 1.0 and its.buffers.tensors()[0].data_ptr()
        train(model, optimizer, range(2, 4), comm.rank)
        return flat(model)

    x, y = hvdclip.simulate(one, 2)
    assert torch.equal(x, y)


class WithItsOptimizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()
        self.optimizer = hvdclip.optimizer("celgc", self, lr=0.1, gamma=0.1, interval=4, momentum=0.9)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("how", HOW)
def test_a_module_that_holds_its_optimizer(how):
    model = WithItsOptimizer()
    train(model, model.optimizer, range(2))
    other = HOW[how](model)
    assert other.optimizer.handed.module is other and type(other.optimizer) is type(model.optimizer)
    assert all(p is q for p, q in zip(other.optimizer.space.parameters, other.parameters(), strict=True))
    assert torch.equal(train(other, other.optimizer, range(2, 6)), train(model, model.optimizer, range(2, 6)))


def test_a_pickle_of_several_ranks_is_for_those_ranks():
    def one(comm):
        return pickle.dumps(hvdclip.optimizer("celgc", network(), lr=0.1, gamma=0.1, comm=comm))

    texts = hvdclip.simulate(one, 2)
    gc.collect()
    with pytest.raises(RuntimeError, match=r"pickled by rank 1 of 2, this is rank 0 of 1: .* load a state_dict"):
        pickle.loads(texts[1])


# State


def test_hooks_see_and_change_all_of_a_state():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, **ADAMW)
    train(model, optimizer, range(2))
    told = []
    optimizer.register_state_dict_pre_hook(lambda its: told.append("pre"))
    optimizer.register_state_dict_post_hook(lambda its, state: {f"my.{key}": value for key, value in state.items()})
    state = optimizer.state_dict()
    assert set(state) == {"my.state", "my.param_groups", "my.hvdclip"} and told == ["pre"]
    assert set(state["my.state"][0]) == {"step", "exp_avg", "exp_avg_sq"}

    other = hvdclip.optimizer("celgc", network(), lr=0.1, gamma=0.1, **ADAMW)

    def mend(its, state):
        state = {key.removeprefix("my."): value for key, value in state.items()}
        state["param_groups"][0]["betas"] = (0.5, 0.6)
        return state | {"hvdclip": state["hvdclip"] | {"steps": 7}}

    other.register_load_state_dict_pre_hook(mend)
    other.register_load_state_dict_post_hook(lambda its: told.append(its.steps))
    other.load_state_dict(state)
    assert other.steps == 7 and told == ["pre", 7] and other.param_groups[0]["betas"] == (0.5, 0.6)
    assert other.optimizers["inner"].param_groups is other.param_groups
    assert states_equal(other.state[other.space.parameters[1]], optimizer.state[optimizer.space.parameters[1]])


def test_the_state_of_a_parameter_is_there_to_see():
    for settings, names in ((MOMENTUM, {"momentum_buffer"}), (ADAMW, {"step", "exp_avg", "exp_avg_sq"}), ({}, set())):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, **settings)
        train(model, optimizer, range(2))
        for p in model.parameters():
            assert set(optimizer.state[p]) == names
        if "momentum" in settings:
            assert torch.equal(
                optimizer.state[model[3].weight]["momentum_buffer"], optimizer.vectors["momentum"].parts[4]
            )
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(model, optimizer, range(2, 4))
        assert set(optimizer.state[model[0].weight]) == names
        assert optimizer.state_dict()["state"], "Horovod would take a step to fill an empty one"


NEW = torch.full((5, 4), 0.5)
WRITES = {
    "clear all": lambda state, p, name: state.clear(),
    "remove a parameter's": lambda state, p, name: state.pop(p),
    "clear a parameter's": lambda state, p, name: state[p].clear(),
    "assign a tensor": lambda state, p, name: operator.setitem(state[p], name, NEW.clone()),
    "update a parameter's": lambda state, p, name: state[p].update({name: NEW.clone()}),
    "assign a parameter's": lambda state, p, name: operator.setitem(state, p, {**state[p], name: NEW.clone()}),
    "assign an empty one": lambda state, p, name: operator.setitem(state, p, {}),
    "move all": lambda state, p, name: [state[p].update({k: v.clone() for k, v in state[p].items()}) for p in state],
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("settings", [{"momentum": 0.9}, ADAMW], ids=str)
def test_what_is_written_into_the_state_holds(settings, write):
    mine, theirs = network(), network()
    ours = hvdclip.optimizer("local_sgd", mine, lr=0.1, interval=2, **settings)
    torchs = torch.optim.AdamW(theirs.parameters(), lr=0.1) if settings is ADAMW else None
    torchs = torchs or torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=settings["momentum"])
    torchs.record = lambda loss: None
    for model, optimizer in ((mine, ours), (theirs, torchs)):
        train(model, optimizer, range(3))
        write(optimizer.state, model[0].weight, "exp_avg" if settings is ADAMW else "momentum_buffer")
        train(model, optimizer, range(3, 6))
    torch.testing.assert_close(flat(mine), flat(theirs), rtol=1e-4, atol=1e-6)


def test_what_a_method_needs_stays_in_its_state():
    model = network()
    optimizer = hvdclip.optimizer("scaffold", model, lr=0.1, interval=2)
    state = optimizer.state[model[0].weight]
    name = sorted(state)[0]
    with pytest.raises(RuntimeError, match="belongs to the method and cannot be removed"):
        optimizer.state.clear()
    state["of my own"] = 1
    assert copy.deepcopy(state)[name] is not state[name] and state.pop("of my own") == 1
    assert optimizer.state[model] == {}, "as a defaultdict"


@pytest.mark.parametrize("settings", [MOMENTUM, ADAMW], ids=str)
def test_a_state_that_is_assigned_holds(settings):
    """`optimizer.state = defaultdict(dict)` is how programs begin momentum and moments anew."""
    model, again = network(), network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, **settings)
    train(model, optimizer, range(3))
    again.load_state_dict(model.state_dict())
    optimizer.state = collections.defaultdict(dict)
    fresh = hvdclip.optimizer("celgc", again, lr=0.1, gamma=0.1, **settings)
    assert torch.equal(train(model, optimizer, range(3, 6)), train(again, fresh, range(3, 6)))


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (torch.optim.Adam, {}, "its groups lack momentum, dampening, nesterov"),
        (torch.optim.SGD, ADAMW, "its groups lack betas"),
        (partial(torch.optim.SGD, momentum=0.9), {}, "momentum 0.9, this optimizer has none"),
        (partial(torch.optim.SGD, maximize=True), {}, "maximizes"),
    ],
)
def test_a_state_of_another_optimizer_of_torchs_is_refused(make, settings, said):
    optimizer = hvdclip.optimizer("local_sgd", network(), lr=0.1, **settings)
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(make(network().parameters(), lr=0.1).state_dict())


def test_states_of_the_release_before_are_loaded():
    for settings in (MOMENTUM, ADAMW):
        model, again = network(), network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=4, **settings)
        train(model, optimizer, range(3))
        state = copy.deepcopy(optimizer.state_dict())
        if "inner" in settings:
            state["inner"] = {"state": state["state"], "param_groups": state["param_groups"]}
        else:
            state["hvdclip"]["vectors"]["momentum"] = [flat.clone() for flat in optimizer.vectors["momentum"].flats]
            for group in state["param_groups"]:
                for key in ("momentum", "dampening", "nesterov"):
                    del group[key]
        state["state"] = {}
        del state["hvdclip"]["rank"]
        again.load_state_dict(model.state_dict())
        resumed = hvdclip.optimizer("celgc", again, lr=0.1, gamma=0.1, interval=4, **settings)
        resumed.load_state_dict(state)
        assert torch.equal(train(again, resumed, range(3, 7)), train(model, optimizer, range(3, 7)))


# One rank's state for all


@pytest.mark.parametrize("settings", [{}, MOMENTUM, ADAMW, {"outer": "adam", "outer_lr": 0.1}], ids=str)
def test_all_ranks_go_on_from_the_roots_state(settings):
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=4, comm=comm, **settings)
        train(model, optimizer, range(6), comm.rank)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        model = network()
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=4, comm=comm, **settings)
        if comm.rank == 1:
            model.load_state_dict(saved[0])
            saved[1]["param_groups"][0]["lr"] = 0.07
            optimizer.load_state_dict(saved[1])
        optimizer.broadcast_state(root=1)
        assert (optimizer.steps, optimizer.steps_in_round, optimizer.rounds) == (6, 2, 1)
        assert optimizer.param_groups[0]["lr"] == 0.07
        state = copy.deepcopy(optimizer.state_dict())
        train(model, optimizer, range(6, 8), comm.rank)
        assert optimizer.rounds == 2 and optimizer.steps_in_round == 0
        return state, flat(model)

    (mine, x), (theirs, y) = hvdclip.simulate(one, 2)
    del mine["hvdclip"]["rank"], theirs["hvdclip"]["rank"]
    assert states_equal(mine, theirs) and torch.equal(x, y)


def test_what_is_a_ranks_own_cannot_be_the_roots():
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("scaffold", model, lr=0.1, interval=2, comm=comm)
        optimizer.broadcast_state()  # at the start all is alike
        train(model, optimizer, range(2), comm.rank)
        said = "the state is of rank 0, but each rank of scaffold keeps its own c_i, its own c: .* without a broadcast"
        with pytest.raises(ValueError, match=said):
            optimizer.broadcast_state()
        state = comm.gather(optimizer.state_dict())
        optimizer.load_state_dict(state[comm.rank])
        if comm.rank == 1:
            with pytest.raises(ValueError, match=said):
                optimizer.load_state_dict(state[0])
        with pytest.raises(ValueError, match="root is 2; allowed: 0 to 1"):
            optimizer.broadcast_state(2)

    hvdclip.simulate(one, 2)


@pytest.mark.ranks
def test_horovods_usual_lines():
    """All on one launch of two ranks: after making, after rank 0 has loaded, by objects, elastic, wrapped, copied."""
    done = python_ranks(HOROVOD, 2, timeout=240)
    assert done.stdout.count("ALL WELL") == 2, done.stdout + done.stderr


HOROVOD = """
import copy, pickle
import horovod.torch as hvd
import torch
import hvdclip

hvd.init()
KINDS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "adamw": {"inner": torch.optim.AdamW},
    "outer": {"outer": "sgd", "outer_lr": 0.5},
}

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

def make(model, kind):
    return hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.05, interval=4, **KINDS[kind])

def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * step + hvd.rank()))
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return flat(model)

def flat(model):
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])

def alike(x, name):
    return bool(hvd.allgather(x[None], name=name).eq(x).all())

def told(optimizer):
    return optimizer.steps, optimizer.steps_in_round, optimizer.rounds, optimizer.param_groups[0]["lr"]

for kind in KINDS:
    # after making it
    plain = network()
    expected = train(plain, make(plain, kind), range(8))
    model = network()
    optimizer = make(model, kind)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert told(optimizer) == (0, 0, 0, 0.1), told(optimizer)
    assert torch.equal(train(model, optimizer, range(8)), expected), kind

    # rank 0 alone has loaded a state, in the middle of a round
    train(model, optimizer, range(8, 10))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    saved[1]["param_groups"][0]["lr"] = 0.05
    lines = {}
    for way in ("state", "object", "elastic"):
        model = network()
        optimizer = make(model, kind)
        if hvd.rank() == 0:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(copy.deepcopy(saved[1]))
        if way == "elastic":
            from horovod.torch.elastic import TorchState
            TorchState(model=model, optimizer=optimizer, batch=0).sync()
        else:
            hvd.broadcast_parameters(model.state_dict(), root_rank=0)
            if way == "state":
                hvd.broadcast_optimizer_state(optimizer, root_rank=0)
            else:
                optimizer.load_state_dict(hvd.broadcast_object(optimizer.state_dict(), root_rank=0))
        assert told(optimizer) == (10, 2, 2, 0.05), (kind, way, told(optimizer))
        assert alike(flat(model), f"x.{kind}.{way}")
        lines[way] = train(model, optimizer, range(10, 12))
        assert told(optimizer)[:3] == (12, 0, 3) and alike(lines[way], f"y.{kind}.{way}")
    assert torch.equal(lines["state"], lines["object"]) and torch.equal(lines["state"], lines["elastic"]), kind

    # copies, made in the middle of a round
    train(model, optimizer, range(12, 14))
    for how in (copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))):
        other, its = how((model, optimizer))
        x = train(other, its, range(14, 20))
        again, itself = how((model, optimizer))
        assert torch.equal(train(again, itself, range(14, 20)), x) and its.rounds == 5
        assert alike(flat(other)[:40], f"z.{kind}") is False or its.steps_in_round == 0
    assert torch.equal(train(model, optimizer, range(14, 20)), x), kind

    # a group more, at a round's end
    head = torch.nn.Linear(1, 1)
    optimizer.add_param_group({"params": list(head.parameters()), "lr": 0.01})
    whole = torch.nn.Sequential(model, head)
    assert alike(train(whole, optimizer, range(20, 24)), f"g.{kind}") and optimizer.steps_in_round == 0

# an elastic state is put back
state = __import__("horovod.torch.elastic", fromlist=["TorchState"]).TorchState(model=model, optimizer=optimizer)
state.commit = state.save
state.save()
before, at = flat(model), told(optimizer)
train(whole, optimizer, range(24, 26))
state.restore()
assert torch.equal(flat(model), before) and told(optimizer) == at

try:
    hvd.DistributedOptimizer(optimizer, named_parameters=whole.named_parameters())
except TypeError as error:
    assert "would average twice: use the hvdclip optimizer alone" in str(error)
else:
    raise AssertionError("taken")
plain = torch.nn.Linear(2, 1)
around = hvd.DistributedOptimizer(torch.optim.AdamW(plain.parameters(), lr=0.1), plain.named_parameters())
try:
    hvdclip.optimizer("celgc", plain, lr=0.1, gamma=0.1, inner=around)
except ValueError as error:
    assert "inner is an hvd.DistributedOptimizer" in str(error) and "allowed: the torch optimizer inside" in str(error)
    print("ALL WELL")
"""


# Groups and schedules


def test_what_a_scheduler_writes_into_momentum_holds():
    for cycled in (
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12),
        partial(torch.optim.lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3),
    ):
        mine, theirs = network(), network()
        ours = hvdclip.optimizer("local_sgd", mine, lr=0.05, momentum=0.9, weight_decay=0.1)
        torchs = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        for optimizer, model in ((ours, mine), (torchs, theirs)):
            schedule = cycled(optimizer)
            for step in range(10):
                if optimizer is torchs:
                    optimizer.record = lambda loss: None
                train(model, optimizer, [step])
                schedule.step()
        assert ours.param_groups[0]["momentum"] == torchs.param_groups[0]["momentum"] != 0.9
        torch.testing.assert_close(flat(mine), flat(theirs), rtol=1e-4, atol=1e-6)


def test_groups_have_names_and_an_inners_own_keys():
    def groups(model):
        first = {"params": model[0].named_parameters(), "name": "first", "betas": (0.5, 0.6), "lr": np.float32(0.01)}
        first["lr_scale"] = 0.5  # timm's layer decay, which a scheduler of timm reads
        return [first, {"params": model[3].named_parameters(), "eps": 1e-3}]

    mine, theirs = network(), network()
    ours = hvdclip.optimizer("local_sgd", groups(mine), lr=np.float64(0.1), interval=np.int64(2), **ADAMW)
    given = groups(theirs)
    if not TAKES_NAMES:
        given = [group | {"params": [p for _, p in group["params"]]} for group in given]
    torchs = torch.optim.AdamW(given, lr=0.1)
    torchs.record = lambda loss: None
    torch.testing.assert_close(train(mine, ours, range(5)), train(theirs, torchs, range(5)), rtol=1e-4, atol=1e-6)
    told = ours.state_dict()["param_groups"]
    assert [group.get("param_names") for group in told] == [["weight", "bias"] if TAKES_NAMES else None] * 2
    assert told[0]["name"] == "first" and told[0]["lr_scale"] == ours.param_groups[0]["lr_scale"] == 0.5
    assert told[0]["betas"] == (0.5, 0.6) and told[1]["eps"] == 1e-3
    assert ours.settings.interval == 2 and type(ours.param_groups[0]["lr"]) is float
    with pytest.raises(
        ValueError, match=r"keys params, betta, .*; allowed: params, lr, weight_decay, name, lr_scale, betas"
    ):
        hvdclip.optimizer("local_sgd", [{"params": network().parameters(), "betta": 1}], lr=0.1, **ADAMW)
    with pytest.raises(ValueError, match=r"momentum is 1.5; allowed: numbers from 0 to below 1"):
        hvdclip.optimizer("local_sgd", [{"params": network().parameters(), "momentum": 1.5}], lr=0.1, momentum=0.9)


def test_a_groups_own_momentum():
    def groups(model):
        return [{"params": model[0].parameters(), "momentum": 0.5}, {"params": model[3].parameters(), "nesterov": True}]

    mine, theirs = network(), network()
    ours = hvdclip.optimizer("local_sgd", groups(mine), lr=0.1, momentum=0.9)
    torchs = torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.9)
    torchs.record = lambda loss: None
    torch.testing.assert_close(train(mine, ours, range(5)), train(theirs, torchs, range(5)), rtol=1e-4, atol=1e-6)


# Groups that come later

GROWN = {
    "celgc": {"gamma": 0.05, "interval": 2},
    "celgc momentum": {"gamma": 0.05, "interval": 2, **MOMENTUM},
    "local_sgd adamw": {"interval": 2, **ADAMW},
    "local_sgd outer": {"interval": 2, "outer": "adam", "outer_lr": 0.1},
    "scaffold": {"interval": 2, "momentum": 0.5},
    "naive_parallel_clip": {"gamma": 0.05, "momentum": 0.9},
    "bucket_clip": {"gamma": 0.05, "bucket_mb": 0.00005},
    "adam_prox": {"interval": 2},
}


@pytest.mark.parametrize("case", GROWN)
def test_a_group_that_is_added_is_as_if_it_had_been_there(case):
    """Its gradient was zero so far, and so was all that the method keeps of it."""

    def one(comm, later):
        model = network()
        comes_later = list(model[3].parameters())
        groups = [{"params": [*model[0].parameters(), *model[2].parameters()]}, {"params": comes_later, "lr": 0.02}]
        given = groups[:1] if later else groups
        optimizer = hvdclip.optimizer(case.split()[0], given, lr=0.05, comm=comm, **GROWN[case])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        if later:
            optimizer.register_step_post_hook(lambda *_: seen.append(1))
        seen = []
        for step in range(8):
            if step == 4 and later:
                optimizer.add_param_group(groups[1])
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * comm.rank + step))
            hidden = model[:3](x)
            (model[3](hidden) if step >= 4 else hidden).square().mean().backward()
            if step < 4 and not later:
                for p in comes_later:
                    p.grad = torch.zeros_like(p)
            optimizer.step()
        assert not later or len(seen) == 8
        assert optimizer.steps == 8 and len(optimizer.param_groups) == 2 and schedule.optimizer is optimizer
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    later, before = (
        hvdclip.simulate(lambda comm: one(comm, True), 2),
        hvdclip.simulate(lambda comm: one(comm, False), 2),
    )
    # AdamW has decay and a count for each parameter; a bucket's threshold is by its share of all parameters
    if case in ("local_sgd adamw", "bucket_clip"):
        assert torch.equal(*later)
        return
    torch.testing.assert_close(later, before)


def test_a_group_is_not_added_where_it_cannot_be():
    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer("celgc", model[0], lr=0.1, gamma=0.1, interval=2, comm=comm)
        optimizer.add_param_group({"params": model[2].parameters()})
        with pytest.raises(ValueError, match="more than one parameter group"):
            optimizer.add_param_group({"params": model[0].parameters()})
        with pytest.raises(ValueError, match="allowed: params"):
            optimizer.add_param_group({"params": model[3].parameters(), "unknown": 1})
        head = nn.Linear(4, 1)
        for step in range(3):
            optimizer.zero_grad()
            model[2](model[0](torch.ones(2, 4))).square().sum().backward()
            optimizer.step()
            if step == 2:
                with pytest.raises(RuntimeError, match="in the middle of a round"):
                    optimizer.add_param_group({"params": head.parameters()})
        return len(optimizer.param_groups), optimizer.rounds, torch.cat([p.flatten() for p in model.parameters()])

    (groups, rounds, x), _ = hvdclip.simulate(one, 2)
    assert groups == 2 and rounds == 1 and x.isfinite().all()


@pytest.mark.parametrize("settings", [MOMENTUM, ADAMW], ids=str)
def test_ranks_that_add_unlike_groups_go_on_as_before(settings):
    def one(comm, adds):
        model, head = network(), nn.Linear(2, 1)
        optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=2, comm=comm, **settings)
        train(model, optimizer, range(4), comm.rank)
        if adds:
            with pytest.raises(Disagreement, match="parameter groups"):
                optimizer.add_param_group({"params": head.parameters(), "lr": 0.1 + comm.rank})
            assert len(optimizer.param_groups) == 1
        return train(model, optimizer, range(4, 8), comm.rank)

    with_it, without = (hvdclip.simulate(partial(one, adds=adds), 2) for adds in (True, False))
    assert torch.equal(with_it[0], without[0]) and torch.equal(with_it[1], without[1])


# Closures, and who holds the parameters


@pytest.mark.parametrize(
    ("give", "loss"),
    [
        (lambda losses: {"loss": losses.mean(), "logits": losses}, True),
        (lambda losses: losses.mean().reshape(1), True),
        (lambda losses: losses, True),
        (lambda losses: (losses.mean(), "more"), True),
        (lambda losses: np.float32(losses.mean().item()), True),
        (lambda losses: {"logits": losses}, False),
        (lambda losses: "done", False),
        (lambda losses: None, False),
    ],
)
def test_what_a_closure_may_return(give, loss):
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1)
    means = []

    def closure():
        optimizer.zero_grad()
        losses = model(torch.ones(3, 4)).square().mean(1)
        losses.mean().backward()
        means.append(losses.mean().item())
        return give(losses.detach())

    returned = optimizer.step(closure)
    assert str(returned) == str(give(torch.full((3,), means[0]))) or isinstance(returned, dict | torch.Tensor | tuple)
    assert optimizer.last_round["loss"] == (pytest.approx(means[0], rel=1e-5) if loss else None)


def test_lazy_and_complex_parameters_are_told_what_to_do():
    with pytest.raises(ValueError, match="lazy module has no shape yet: run a batch through the model before"):
        hvdclip.optimizer("celgc", nn.LazyLinear(2), lr=0.1, gamma=0.1)
    with pytest.raises(TypeError, match=r"complex64; allowed: real ones; keep torch\.view_as_real"):
        hvdclip.optimizer("celgc", [nn.Parameter(torch.zeros(2, dtype=torch.complex64))], lr=0.1, gamma=0.1)
    with pytest.raises(TypeError, match="a set, which has no order, was given"):
        hvdclip.optimizer("celgc", set(network().parameters()), lr=0.1, gamma=0.1)


def test_parameters_have_one_optimizer_at_a_time():
    model = network()
    first = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1)
    with pytest.warns(UserWarning, match=r"another hvdclip optimizer \(celgc\) has these parameters"):
        second = hvdclip.optimizer("local_sgd", model[3], lr=0.1)
    with pytest.raises(RuntimeError, match="another hvdclip optimizer has taken them over"):
        train(model, first, range(2))
    torch.optim.lr_scheduler.StepLR(first, 2)  # leaves a cycle behind
    del first, second
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third = hvdclip.optimizer("local_sgd", model, lr=0.1)
    x = flat(model)
    assert not torch.equal(train(model, third, range(2)), x)


def test_a_model_whose_gradients_others_average_is_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(TypeError, match=r"a DistributedDataParallel was given.*allowed: the module inside it"):
            hvdclip.optimizer("celgc", nn.parallel.DistributedDataParallel(network()), lr=0.1, gamma=0.1)
    finally:
        torch.distributed.destroy_process_group()


def test_parameters_that_a_rank_does_not_hold_are_refused(tmp_path):
    with torch.device("meta"):
        bare = nn.Linear(2, 1)
    with pytest.raises(TypeError, match=r"on the meta device, which has no values: call model.to_empty"):
        hvdclip.optimizer("celgc", bare, lr=0.1, gamma=0.1)
    tensor = pytest.importorskip("torch.distributed.tensor")
    if not hasattr(tensor, "distribute_tensor"):
        pytest.skip("public since torch 2.5")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        part = nn.Parameter(tensor.distribute_tensor(torch.ones(4, 2), mesh))
        with pytest.raises(TypeError, match=r"shape \(4, 2\) is a DTensor, of which each rank has a part"):
            hvdclip.optimizer("celgc", [part], lr=0.1, gamma=0.1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_in_shared_memory():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1)
    model.share_memory()
    with pytest.raises(RuntimeError, match="moved into shared memory"):
        train(model, optimizer, range(1))
    with pytest.warns(UserWarning, match=r"is in shared memory.*copy.deepcopy\(model\).share_memory\(\)"):
        hvdclip.optimizer("celgc", network().share_memory(), lr=0.1, gamma=0.1)


def test_a_group_that_is_added_leaves_each_ranks_own_buffers_alone():
    def one(comm):
        model, more = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, interval=1, buffer_policy="keep")
        torch.manual_seed(comm.rank)
        model(torch.randn(8, 2)).sum().backward()
        optimizer.step()
        before = model[1].running_mean.clone()
        optimizer.add_param_group({"params": more.parameters()})
        return before, model[1].running_mean.clone()

    (a, same), (b, also) = hvdclip.simulate(one, 2)
    assert torch.equal(a, same) and torch.equal(b, also) and not torch.equal(a, b)


@pytest.mark.parametrize("outer", ["nesterov", "adam"])
def test_a_group_of_another_dtype_is_added_beside_an_outer_step(outer):
    model, more = nn.Linear(3, 2), nn.Linear(3, 2, dtype=torch.float64)
    optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, interval=2, outer=outer, outer_lr=0.3)

    def step():
        optimizer.zero_grad()
        (model(torch.ones(1, 3)).sum() + more(torch.ones(1, 3, dtype=torch.float64)).sum()).backward()
        optimizer.step()

    for _ in range(2):
        step()
    kept = [value.clone() for value in optimizer.optimizers["outer"].state_dict()["state"][0].values()]
    optimizer.add_param_group({"params": more.parameters()})
    state = optimizer.optimizers["outer"].state_dict()["state"]
    assert all(torch.equal(a, b) for a, b in zip(kept, state[0].values(), strict=True))
    before = more.weight.detach().clone()
    for _ in range(2):
        step()
    assert not torch.equal(before, more.weight)


def test_the_momentum_of_each_ranks_own_gradients_is_its_own():
    optimizer = hvdclip.optimizer(
        "clip_then_average", nn.Linear(2, 1), lr=0.1, gamma=0.1, momentum=0.9, norm_of="update"
    )
    assert optimizer.kept_apart() == ["its own momentum"]
    of_the_mean = hvdclip.optimizer("clip_then_average", nn.Linear(2, 1), lr=0.1, gamma=0.1, momentum=0.9)
    assert of_the_mean.kept_apart() == []
