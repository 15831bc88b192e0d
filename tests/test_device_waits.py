"""How often the host waits for the device: counted on a pretended one, for all algorithms and ways to average.

`python -m pytest tests/test_device_waits.py` needs no GPU.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, settings_of
from device_waits import EVENT, READ, RECEIVED, SENT, WRITE, Device
from torch import nn

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.messages import statistics
from hvdclip.torch_private import RELEASE
from hvdclip.training.supervised import Supervised

EVERY = 3
# What a message costs: the steps' numbers are read; those of the tail go to the device and come back, which is waited
# for. Nothing else, and nothing between two messages.
MESSAGE = {READ: 1, SENT: 1, RECEIVED: 1, EVENT: 1}
CELGC = {"lr": 0.1, "gamma": 0.1, "interval": EVERY}
DAMPENED = {"momentum": 0.9, "dampening": 0.3, "momentum_policy": "reset"}

# algorithm: the settings with which it is counted
VARIANTS = {
    "celgc": [{}, DAMPENED, {"momentum": 0.9, "norm_of": "update"}, {"on_nonfinite": "skip"}],
    "clip_then_average": [{"momentum": 0.9, "norm_of": "update"}],
    "scaffold": [{}, {"option": "I"}],
    "episode_pp": [{"participants": 2}],
    "bucket_clip": [{"bucket_mb": 1e-6}],
    "ef21_norm": [{}, {"k": 3}],
    "norm_ec": [{"noise": 0.1}],
}
OTHERS = {
    "sketched": MESSAGE | {SENT: 5},  # the sketch's hashes too, twice
    "decentralized_clip": {READ: 1},  # its statistics stay with the rank
}
AVERAGES = {
    "delayed": {"overlap": "delayed"},
    "delayed by 1": {"overlap": "delayed", "delay": 1},
    "fp16": {"compression": "fp16"},
    "int8, delayed": {"compression": "int8", "overlap": "delayed"},
    "int4": {"compression": "int4"},
    "topk, outer": {"compression": "topk", "top_share": 0.2, "outer": "nesterov", "outer_lr": 0.7},
    "outer Adam": {"outer": "adam", "outer_lr": 0.01},
    "fragments": {"averaging": "fragments", "fragments": 2},
    "fragments, outer, delayed": {
        "averaging": "fragments",
        "fragments": 2,
        "outer": "nesterov",
        "outer_lr": 0.7,
        "overlap": "delayed",
        "merge_alpha": 0.5,
    },
    "states": {"inner": "AdamW", "state_intervals": {"exp_avg": 1, "exp_avg_sq": 2}},
    "nodes": {"node_interval": 1},
    "warm-up by gradients": {"warmup": "gradients", "warmup_steps": 3},
    "weighted": {"weight": 2.0},
    "auto": {"interval": "auto"},
}
# inner optimizer: how often a step waits
INNERS = {name: 0 for name in ("Adadelta", "Adam", "AdamW", "Adamax", "ASGD", "Muon", "NAdam", "RAdam", "RMSprop")}
INNERS |= {"Rprop": 0, "SGD": 0, "Adagrad": 1}
FORMS = [("Adam", {"foreach": True}), ("AdamW", {"fused": True, "amsgrad": True}), ("Adagrad", {"fused": True})]
if RELEASE < (2, 13):
    FORMS.pop()  # a fused Adagrad does not take a GPU's tensors; so seen with 2.4 and 2.11
FORMS += [("SGD", {"momentum": 0.9, "dampening": 0.5}), ("SGD", {"momentum": 0.9, "fused": True})]
MATRICES = {"matrices": {"name": "Muon"}, "others": {"name": "AdamW"}}
REFUSED = {"Optimizer", "LBFGS", "SparseAdam"}  # as inner ones
READ_BY_THEMSELVES = {"Adafactor"}  # two numbers of each tensor


class Net(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


class Own(torch.optim.SGD):
    """An optimizer that is not torch's."""


class Training:
    """Steps of one algorithm on one rank, on the pretended device or on the host."""

    def __init__(self, comm, algorithm, settings, device="cuda", norm=True, dtype=torch.float32):
        torch.manual_seed(comm.rank)
        self.model = Net(norm).to(device, dtype)
        self.batch = torch.randn(8, 4, dtype=dtype).to(device), torch.randn(8, 3, dtype=dtype).to(device)
        self.method = hvdclip.optimizer(algorithm, self.model, comm=comm, **settings)
        self.spoilt = False

    def closure(self, again=False):
        inputs, targets = self.batch
        self.method.zero_grad()
        loss = (self.model(inputs) - targets).square().mean()
        loss.backward()
        if self.spoilt:
            self.model.first.weight.grad.fill_(float("nan"))
        return loss.detach()

    def step(self):
        if self.method.needs_closure:
            self.method.step(self.closure)
        else:
            self.method.record(loss=self.closure(), samples=8)
            self.method.step()

    def run(self, rounds):
        last = self.method.rounds + rounds
        while self.method.rounds < last:
            self.step()


def counted(algorithm, settings, ranks=2, rounds=3, **how):
    """What the last rounds of rank 0 cost, and where; the first make what stays."""
    device = Device()

    def rank(comm):
        with device.entered():
            training = Training(comm, algorithm, settings, **how)
            training.run(3)
            with device.noted() as noted:
                training.run(rounds)
        return noted

    with device.there():
        noted, *_ = hvdclip.simulate(rank, ranks, 2 if ranks > 2 else None)
    return Counter(kind for kind, _ in noted), Counter(noted)


def times(cost, rounds=3):
    return Counter({kind: rounds * number for kind, number in cost.items()})


def test_what_waits_is_seen():
    device = Device()
    pinned = {READ: ["item", "tolist", "cpu"], SENT: [], RECEIVED: []}
    with device.there(), device.entered():
        x, host = torch.ones(3, device="cuda"), torch.ones(3)
        assert (x.device.type, (2 * x).is_cuda, host.is_cpu, x[1:].is_cpu) == ("cuda", True, True, False)
        with device.noted() as noted:
            for name in pinned[READ]:
                getattr(x.sum(), name)()
            assert x.any()
            float(x[0])
            x[x > 0]
            x.nonzero()
            torch.equal(x, x)
            x.numpy(force=True)
            host.copy_(x, non_blocking=True)  # its memory is not pinned
        assert Counter(kind for kind, _ in noted) == {READ: 10}
        with device.noted() as noted:
            torch.tensor(1.0, device="cuda")
            host.to("cuda", non_blocking=True)
            x.copy_(host.pin_memory())
        assert Counter(kind for kind, _ in noted) == {WRITE: 3}
        with device.noted() as noted:
            x.copy_(host.pin_memory(), non_blocking=True)
            torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)
            torch.where(x > 0, x, 0.0).add_(x.norm(), alpha=2).mul_(torch.tensor(3.0))
            torch.cuda.Event().synchronize()
        assert Counter(kind for kind, _ in noted) == {SENT: 1, RECEIVED: 1, EVENT: 1}
        with pytest.raises(RuntimeError, match="same device"):
            x + host
        with pytest.raises(TypeError, match="cuda"):
            x.numpy()


@pytest.mark.parametrize(
    ("algorithm", "variant"), [(name, variant) for name in ALGORITHMS for variant in VARIANTS.get(name, [{}])], ids=str
)
def test_an_algorithm_waits_in_its_messages_only(algorithm, variant):
    settings = {"lr": 0.1} | settings_of(algorithm, variant, interval=EVERY)
    found, where = counted(algorithm, settings)
    assert found == times(OTHERS.get(algorithm, MESSAGE)), where


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_waits_once_for_each_message(name):
    found, where = counted("celgc", CELGC | AVERAGES[name], ranks=4 if name == "nodes" else 2)
    assert found == times(MESSAGE), where


def test_torchs_optimizers_are_all_counted():
    there = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}
    assert there <= INNERS.keys() | READ_BY_THEMSELVES | REFUSED


@pytest.mark.parametrize(("inner", "form"), [*((name, {}) for name in INNERS), *FORMS], ids=str)
def test_an_inner_optimizer_waits_in_messages_only(inner, form):
    if not hasattr(torch.optim, inner):
        pytest.skip(f"this torch has no {inner}")
    found, where = counted("celgc", CELGC | {"inner": {"name": inner} | form}, norm=inner != "Muon")
    waits = 0 if form else INNERS[inner]
    assert found == times(MESSAGE | {READ: 1 + waits * EVERY}), where


def test_what_else_a_step_does_waits_for_nothing():
    def scaled(training):
        training.method.grad_scale = torch.full((), 2.0, device="cuda")
        training.method.found_inf = torch.zeros((), device="cuda")

    def absent(training):
        training.model.last.requires_grad_(False)

    device = Device()
    for change in (scaled, absent, lambda training: None):
        with device.there(), device.entered():
            training = Training(SingleRank(), "celgc", CELGC | {"inner": torch.optim.AdamW})
            change(training)
            training.run(3)
            with device.noted() as noted:
                training.method.record(loss=0.5)
                training.run(1)
        assert Counter(kind for kind, _ in noted) == MESSAGE, change.__name__


@pytest.mark.parametrize("others", ["AdamW", "Adagrad"])
def test_optimizers_of_matrices_and_others_wait_as_each_does(others):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    found, where = counted("celgc", CELGC | {"inner": MATRICES | {"others": others}})
    assert found == times(MESSAGE | {READ: 1 + INNERS[others] * EVERY}), where


def test_an_optimizer_that_is_not_torchs_is_waited_for():
    found, where = counted("celgc", CELGC | {"inner": Own})
    assert found == times(MESSAGE | {READ: 1 + EVERY}), where


def test_a_long_round_is_read_seldom(monkeypatch):
    assert statistics.FOLD_ON_DEVICE == 4096
    monkeypatch.setattr(statistics, "FOLD", 4)
    monkeypatch.setattr(statistics, "FOLD_ON_DEVICE", 10)
    device, reads = Device(), []
    with device.there(), device.entered():
        training = Training(SingleRank(), "celgc", CELGC | {"interval": 10**6})
        for step in range(1, 22):
            with device.noted() as noted:
                training.step()
            reads += [step] * len(noted)
    assert reads == [10, 20]


def test_metrics_of_a_common_step_are_read_once_more():
    device = Device()
    with device.there(), device.entered():
        training = Training(SingleRank(), "naive_parallel_clip", {"lr": 0.1, "gamma": 0.1})
        training.run(2)
        with device.noted() as noted:
            assert training.method.last_round["clip_fraction"] == training.method.last_round["clip_fraction"]
    assert [kind for kind, _ in noted] == [READ]


LEFT_OUT = (0, 4, 5, 11)  # the first step, one in mid-round, and two in a row


def trajectory(comm, settings, device, load_after=None, norm=False):
    """x after each of 16 steps, some of which rank 0 leaves out, and the inner optimizer's state at the end."""
    torch.set_default_dtype(torch.float64)
    training = Training(comm, "celgc", settings, device, norm, dtype=torch.float64)
    rows = []
    for step in range(16):
        training.spoilt = comm.rank == 0 and step in LEFT_OUT
        training.step()
        rows.append(training.model.first.weight.detach().cpu().numpy().copy())
        if step == load_after:
            saved = training.method.state_dict()
            for kept in saved["state"].values():
                kept["step"] = kept["step"].cpu()  # as a run on a CPU has saved it
            training.method.load_state_dict(saved)
    state = training.method.optimizers["inner"].state_dict()["state"]
    kept = {
        (place, key): value.cpu().numpy().copy()
        for place, values in state.items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    return np.array(rows), kept


@pytest.mark.parametrize(
    ("inner", "form"), [*((name, {}) for name in [*INNERS, "Adafactor"]), *FORMS, ("Muon", MATRICES)], ids=str
)
def test_a_step_that_is_left_out_leaves_no_trace_on_a_device(inner, form):
    if not hasattr(torch.optim, inner):
        pytest.skip(f"this torch has no {inner}")
    inside, norm = form if form is MATRICES else {"name": inner} | form, form is MATRICES
    settings = CELGC | {"lr": 0.01, "inner": inside, "on_nonfinite": "skip"}
    load_after = 8 if inner in ("AdamW", "NAdam") else None
    device, results = Device(), {}

    def rank(comm):
        with device.entered():
            return trajectory(comm, settings, "cuda", load_after, norm)

    before = torch.get_default_dtype()
    try:
        with device.there():
            results["cuda"] = hvdclip.simulate(rank, 2)
        results["cpu"] = hvdclip.simulate(lambda comm: trajectory(comm, settings, "cpu", norm=norm), 2)
    finally:
        torch.set_default_dtype(before)
    for (x, kept), (expected, also_kept) in zip(results["cuda"], results["cpu"], strict=True):
        # torch counts steps in float32 on a device
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-6)
        assert kept.keys() == also_kept.keys()
        for key in kept:
            np.testing.assert_allclose(kept[key], also_kept[key], rtol=1e-4, atol=1e-8, err_msg=str(key))


@pytest.mark.parametrize("more", [{}, {"averaging": "fragments", "fragments": 2}, {"warmup": "gradients"}], ids=str)
def test_the_devices_steps_are_no_part_of_an_average(more):
    """Else interval: auto would take a device that computes for a slow network."""
    lag, device = 0.3, Device()
    more = more | {"warmup_steps": 100} if "warmup" in more else more
    with device.there(), device.entered():
        training = Training(SingleRank(), "celgc", CELGC | {"interval": 1} | more)
        training.run(2)
        device.behind = lag
        training.run(1)
    assert device.behind == 0
    assert training.method.averaging.seconds < lag
    assert training.method.last_round["round_s"] > lag


def test_pinned_batches_are_not_waited_for():
    device = Device()
    with device.there(), device.entered():
        task = Supervised({"train": [0], "valid": [0]}, "cross_entropy", torch.device("cuda"))
        inputs, labels = torch.randn(4, 2), torch.zeros(4, dtype=torch.int64)
        for pairs, kind in (((inputs.pin_memory(), labels.pin_memory()), SENT), ((inputs, labels), WRITE)):
            with device.noted() as noted:
                batch = task._batch(pairs, "train")
            assert [seen for seen, _ in noted] == [kind] * 2
            assert batch.inputs.is_cuda and batch.targets.is_cuda
