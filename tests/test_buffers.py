"""Buffers beside x: which are averaged, which are rank 0's, and what a step that is left out leaves of them."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from launch import python_ranks
from torch import nn
from torch.ao.quantization import HistogramObserver, MinMaxObserver
from torch.nn.utils import parametrizations, prune

import hvdclip
from hvdclip.messages import Buffers
from hvdclip.training import state
from hvdclip.training.sync_batch_norm import SyncBatchNorm

SETTINGS = {"lr": 0.05, "max_norm": 1.0}
METHODS = [("celgc", {"interval": 1}), ("celgc", {"interval": 4}), ("naive_parallel_clip", {})]


def old_spectral_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(layer)


def train(model, optimizer, comm, steps):
    for step in range(steps):
        inputs = batch(comm.rank, step)
        optimizer.zero_grad()
        (model(inputs) - inputs.sum(dim=1, keepdim=True)).pow(2).mean().backward()
        optimizer.step()


def batch(rank, step):
    """Ranks' data differ in mean and in spread."""
    return rank + (1 + rank) * torch.randn(16, 4, generator=torch.Generator().manual_seed(100 * rank + step))


# which are averaged


@pytest.mark.parametrize("overlap", ["none", "delayed"])
@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, old_spectral_norm])
def test_vectors_of_a_spectral_norm_stay_unit_vectors(wrap, overlap):
    def one(comm):
        torch.manual_seed(0)
        model = nn.Sequential(wrap(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1))
        optimizer = hvdclip.optimizer(
            "celgc", model, lr=0.5, gamma=0.5, interval=16, overlap=overlap, drift=False, comm=comm
        )
        train(model, optimizer, comm, 40)
        optimizer.synchronize()
        return [buffer.clone() for buffer in model[0].buffers()]

    found = hvdclip.simulate(one, 3)
    for vectors in found:
        assert [vector.norm().item() for vector in vectors] == pytest.approx([1, 1], abs=1e-6)
        assert all(torch.equal(mine, first) for mine, first in zip(vectors, found[0], strict=True))


class Own(nn.Module):
    """Normalises by batches in a way of its own, beside floats that are no such statistics."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("running_mean", torch.zeros(2))
        self.register_buffer("running_var", torch.ones(2))
        self.register_buffer("scale", torch.ones(()))


class HalfOfIt(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))


def test_where_the_buffers_of_torchs_modules_fall():
    """The names of those that are averaged, by module; all others are rank 0's."""
    weight_norm = parametrizations.weight_norm(nn.Linear(2, 2))
    modules = {
        "batch": (nn.BatchNorm1d(2), {"running_mean", "running_var"}),
        "sync": (nn.SyncBatchNorm(2), {"running_mean", "running_var"}),
        "ours": (SyncBatchNorm(nn.BatchNorm1d(2), None, "ours"), {"running_mean", "running_var"}),
        "instance": (nn.InstanceNorm1d(2, track_running_stats=True), {"running_mean", "running_var"}),
        "untracked": (nn.BatchNorm1d(2, track_running_stats=False), set()),
        "own": (Own(), {"running_mean", "running_var"}),
        "half": (HalfOfIt(), set()),
        "spectral": (parametrizations.spectral_norm(nn.Linear(2, 2)), set()),
        "spectral_of_old": (old_spectral_norm(nn.Linear(2, 2)), set()),
        "weight": (weight_norm, set()),
        "orthogonal": (parametrizations.orthogonal(nn.Linear(2, 2)), set()),
        "pruned": (prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5), set()),
        "observer": (MinMaxObserver(), set()),
        "histogram": (HistogramObserver(), set()),
        "copy": (
            torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
            {"module.1.running_mean", "module.1.running_var"},
        ),
    }
    for name, (module, averaged) in modules.items():
        buffers = Buffers(module, "average", 0, 2)
        named = {id(tensor): path for path, tensor in module.named_buffers()}
        assert {named[id(tensor)] for tensor in buffers.averaged()} == averaged, name
        assert {named[id(tensor)] for tensor in buffers.copied()} == set(module.state_dict()) & set(
            named.values()
        ) - averaged, name
    assert not list(weight_norm.buffers())


@pytest.mark.parametrize(("algorithm", "more"), METHODS)
def test_running_statistics_are_means_of_means_and_of_variances(algorithm, more):
    """One batch and one average: 0.1 of the ranks' mean means, 0.9 + 0.1 of their mean variances, in NumPy."""

    def one(comm):
        model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **SETTINGS, **more)
        train(model, optimizer, comm, 1)
        optimizer.synchronize()
        return [model[0].running_mean.numpy(), model[0].running_var.numpy(), model[0].num_batches_tracked.item()]

    drawn = np.array([batch(rank, 0).numpy() for rank in range(3)])
    for mean, variance, batches in hvdclip.simulate(one, 3):
        np.testing.assert_allclose(mean, 0.1 * drawn.mean(axis=1).mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(variance, 0.9 + 0.1 * drawn.var(axis=1, ddof=1).mean(axis=0), rtol=1e-5)
        assert batches == 1


class Many(nn.Module):
    """Buffers of every kind, each of which is the rank's number and a step's."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(1, 1)
        for name in ("ema_a", "ema_b", "other", "own"):
            self.inside.register_buffer(name, torch.zeros(2))
        self.inside.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.norm = Own()

    def tell(self, number):
        for buffer in self.buffers():
            buffer.fill_(number)


@pytest.mark.parametrize("algorithm", ["local_sgd", "minibatch_sgd", "clip21", "bucket_clip"])
def test_a_pattern_of_names_chooses_for_each_buffer(algorithm):
    policy = {"*.ema_a": "average", "*.own": "keep", "*.ema_*": "keep", "inside.seen": "average"}

    def one(comm):
        model = Many()
        more = {"tau": 1.0} if algorithm == "clip21" else {"max_norm": 1.0} if algorithm == "bucket_clip" else {}
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, lr=0.1, buffer_policy=policy, **more)
        sum((p**2).sum() for p in model.parameters()).backward()
        model.tell(1 + 2 * comm.rank)
        optimizer.step()
        return {name: buffer.flatten()[0].item() for name, buffer in model.named_buffers()}, optimizer.kept_apart()

    for rank, (found, apart) in enumerate(hvdclip.simulate(one, 3)):
        mine = 1 + 2 * rank
        assert found == pytest.approx(
            {
                "inside.ema_a": 3,  # the first pattern that fits decides
                "inside.ema_b": mine,
                "inside.other": 1,
                "inside.own": mine,
                "inside.seen": 1,  # an integer is rank 0's where others are averaged
                "norm.running_mean": 3,
                "norm.running_var": 3,
                "norm.scale": 1,
            }
        )
        assert "its own buffers (buffer_policy: keep)" in apart


@pytest.mark.parametrize(
    ("policy", "error", "said"),
    [
        ({"*.emma": "average"}, ValueError, "the pattern '*.emma' fits no buffer; there are inside.ema_a"),
        ({"*": "mean"}, ValueError, "allowed: 'average', 'keep', 'broadcast', or {pattern"),
        ({1: "keep"}, ValueError, "buffer_policy is {1: 'keep'}; allowed"),
        (["keep"], ValueError, "buffer_policy is ['keep']; allowed"),
    ],
)
def test_wrong_patterns_are_one_line(policy, error, said):
    with pytest.raises(error) as raised:
        hvdclip.optimizer("local_sgd", Many(), lr=0.1, buffer_policy=policy)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_patterns_need_a_module():
    with pytest.raises(ValueError, match=r"fits no buffer; there are none \(no module was given"):
        hvdclip.optimizer("local_sgd", Many().parameters(), lr=0.1, buffer_policy={"*": "keep"})


def test_patterns_fit_the_names_inside_of_a_compiled_module():
    module = torch.compile(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)), backend="eager")
    assert Buffers(module, {"1.running_*": "keep"}, 0, 2).kept == ["1.running_mean", "1.running_var"]


def test_a_buffer_that_changes_its_shape_is_named():
    def one(comm):
        model = nn.Linear(1, 1)
        model.register_buffer("lowest", torch.zeros(0))
        optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, comm=comm)
        model(torch.ones(1, 1)).sum().backward()
        model.lowest.resize_(3)
        optimizer.step()

    with pytest.raises(ValueError, match=r"buffer lowest was torch.float32 of shape \(0,\) .* is .* \(3,\) now; allow"):
        hvdclip.simulate(one, 2)


def test_a_lazy_buffer_is_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.LazyBatchNorm1d(affine=False))
    with pytest.raises(ValueError, match=r"buffer 1.running_mean has no shape yet; allowed: .* after a forward pass"):
        hvdclip.optimizer("local_sgd", model, lr=0.1)
    model(torch.ones(2, 1))
    hvdclip.optimizer("local_sgd", model, lr=0.1)
    assert Buffers(model, "average", 0, 2).averaged()[0] is model[1].running_mean


def test_rank_0s_floats_arrive_bit_for_bit():
    """Those of all widths, infinities and a negative zero included, as an observer of extremes has at its start."""
    values = torch.tensor([1 / 3, -1 / 3, float("inf"), -0.0, float("nan"), 3e-45])

    def one(comm):
        model = nn.Linear(1, 1)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64):
            model.register_buffer(f"as_{str(dtype)[6:]}", torch.zeros(6, dtype=dtype))
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
            model.register_buffer(f"as_{str(dtype)[6:]}", torch.zeros(3, dtype=dtype))
        optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, comm=comm)
        sent = {name: (values if b.dim() and len(b) == 6 else torch.tensor([0, 127, 77])).to(b.dtype)
                for name, b in model.named_buffers()}  # fmt: skip
        sent["as_int64"] = torch.tensor([-(2**63), 2**63 - 1, -1])
        for name, buffer in model.named_buffers():
            buffer.copy_(sent[name] if comm.rank == 0 else torch.ones_like(buffer))
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        return [(b.view(-1).view(torch.uint8), sent[n].view(-1).view(torch.uint8)) for n, b in model.named_buffers()]

    for rank in hvdclip.simulate(one, 3):
        assert all(torch.equal(received, sent) for received, sent in rank) and len(rank) == 10


def test_under_a_delay_rank_0_keeps_what_it_has_and_the_others_take_what_it_sent():
    def one(comm):
        model = nn.Linear(1, 1)
        model.register_buffer("unit", torch.zeros(1))
        model.register_buffer("seen", torch.zeros(1, dtype=torch.int64))
        model.register_buffer("flag", torch.zeros(1, dtype=torch.bool))
        settings = {"lr": 0.1, "interval": 3, "overlap": "delayed", "delay": 1}
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, **settings)
        rows = []
        for step in range(1, 6):
            model.unit.fill_(step / 3 + 10 * comm.rank)
            model.seen.add_(1 + comm.rank)
            model.flag.fill_(comm.rank == 0 and step == 4)
            model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
            rows.append([model.unit.item(), model.seen.item(), model.flag.item()])
        return rows

    mine, other = hvdclip.simulate(one, 2)
    third = torch.tensor(3 / 3).item()
    assert mine[3] == [torch.tensor(4 / 3).item(), 4, True], "step 4 comes after what was sent in step 3"
    assert other[3] == [third, 3 + 2, False], "rank 0 had counted 3, and this rank 2 more since"


# a step that is left out


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), parametrizations.spectral_norm(nn.Linear(8, 1)))


def buffers_of(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def alike(these, those):
    return all(torch.equal(these[name], those[name]) for name in these) and these.keys() == those.keys()


LEFT_OUT = 2
STEPS = [
    ("celgc", {"interval": 8}),
    ("celgc", {"interval": 8, "overlap": "delayed", "delay": 3, "drift": False}),
    ("celgc", {"interval": 8, "inner": "Adam"}),
    ("celgc", {"interval": 8, "warmup_steps": 5, "warmup": "gradients"}),
    ("celgc", {"interval": 8, "buffer_policy": "keep"}),
    ("celgc", {"interval": 8, "buffer_policy": "broadcast"}),
    ("naive_parallel_clip", {}),
    ("bucket_clip", {"bucket_mb": 1e-4}),
    ("minibatch_clip", {"interval": 2}),
]


def with_a_bad_step(comm, algorithm, more, spoil, steps=5, rank=1, on_host=True):
    """The buffers after each step, in one of which `spoil` changes a rank's batch; whether all is finite then."""
    model = network()
    optimizer = hvdclip.optimizer(algorithm, model, comm=comm, on_nonfinite="skip", **SETTINGS, **more)
    optimizer.skip.on_host = optimizer.kept.on_host = on_host
    rows = [buffers_of(model)]
    for step in range(steps):
        inputs, targets = batch(comm.rank, step), torch.zeros(16, 1)
        if step == LEFT_OUT and comm.rank == rank:
            spoil(inputs, targets)
        for half in (slice(8), slice(8, 16)) if algorithm != "bucket_clip" else [slice(16)]:  # accumulated
            (model(inputs[half]) - targets[half]).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append(buffers_of(model))
    optimizer.synchronize()
    model.eval()
    return rows, model(torch.ones(1, 4)).isfinite().item(), optimizer.last_round["skipped"]


def spoil_inputs(inputs, targets):
    inputs[0, 0] = float("nan")


def spoil_targets(inputs, targets):
    targets[15] = float("inf")


@pytest.mark.parametrize("spoil", [spoil_inputs, spoil_targets])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(("algorithm", "more"), STEPS)
def test_a_step_that_is_left_out_leaves_no_trace_in_buffers(algorithm, more, ranks, spoil):
    bad = min(1, ranks - 1)
    found = hvdclip.simulate(lambda comm: with_a_bad_step(comm, algorithm, more, spoil, rank=bad), ranks)
    together = algorithm != "celgc" or "warmup" in more  # then all ranks leave it out
    several = more["interval"] if algorithm == "minibatch_clip" else 1
    for rank, (rows, finite, _) in enumerate(found):
        left_out = rank == bad or together
        before, after = rows[LEFT_OUT], rows[LEFT_OUT + several]
        assert alike(before, after) == left_out, rank
        assert not alike(after, rows[LEFT_OUT + several + 1]), "the next step is taken"
        assert finite and all(buffer.isfinite().all() for buffer in rows[-1].values())
        count = rows[-1]["1.num_batches_tracked"].item()
        assert count == (1 if algorithm == "bucket_clip" else 2) * (5 - several * left_out)


@pytest.mark.parametrize(("algorithm", "more"), STEPS[:2])
@pytest.mark.parametrize("spoil", [spoil_inputs, spoil_targets])
def test_buffers_that_a_device_masks_are_those_that_the_host_puts_back(algorithm, more, spoil):
    on_host, masked = (
        hvdclip.simulate(lambda comm, h=h: with_a_bad_step(comm, algorithm, more, spoil, on_host=h), 2)
        for h in (True, False)
    )
    for (rows, *told), (also, *also_told) in zip(on_host, masked, strict=True):
        assert all(map(alike, rows, also)) and told == also_told


@pytest.mark.parametrize("algorithm", ["sgdol", "episode", "spider_clip"])
def test_all_forward_passes_of_a_step_with_several_gradients_go_back(algorithm):
    more = {"sgdol": {}, "episode": SETTINGS, "spider_clip": SETTINGS | {"anchor_every": 3}}[algorithm]
    model, calls, rows = network(), 0, []
    optimizer = hvdclip.optimizer(algorithm, model, on_nonfinite="skip", interval=4, **more)

    def closure(again=False):
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        inputs = batch(0, calls)
        if len(rows) == LEFT_OUT:
            spoil_inputs(inputs, None)
        loss = model(inputs).pow(2).mean()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
        rows.append(buffers_of(model))
    assert alike(rows[1], rows[2]) and not alike(rows[2], rows[3])
    assert all(buffer.isfinite().all() for buffer in rows[3].values())


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("unscaled", [True, False])
@pytest.mark.parametrize(("algorithm", "more"), METHODS[1:])
def test_an_overflow_leaves_no_trace_either(algorithm, more, unscaled, policy):
    """From the first step on, in which a scale that is too large overflows."""

    def one(comm):
        model = network()
        optimizer = hvdclip.optimizer(algorithm, model, comm=comm, on_nonfinite=policy, **SETTINGS, **more)
        scaler = torch.amp.GradScaler("cpu", init_scale=3e38 if comm.rank else 1.0, backoff_factor=1e-30)
        rows = [buffers_of(model)]
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale((model(batch(comm.rank, step)) - 100).pow(2).mean()).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            rows.append(buffers_of(model))
        return rows

    for rank, rows in enumerate(hvdclip.simulate(one, 2)):
        assert alike(rows[0], rows[1]) == (rank == 1 or algorithm != "celgc")
        assert not alike(rows[1], rows[2])


@pytest.mark.parametrize("spoil", [spoil_inputs, spoil_targets])
def test_what_was_loaded_after_the_optimizer_was_made_is_not_taken_back(spoil):
    """The copy is older: it stands in for what is not finite only."""
    model, other = network(), network()
    optimizer = hvdclip.optimizer("celgc", model, on_nonfinite="skip", **SETTINGS)
    start = buffers_of(model)
    other(batch(0, 0))
    model.load_state_dict(other.state_dict())
    inputs, targets = batch(0, 1), torch.zeros(16, 1)
    spoil(inputs, targets)
    (model(inputs) - targets).pow(2).mean().backward()
    seen = buffers_of(model)
    optimizer.step()
    assert alike(buffers_of(model), start if spoil is spoil_inputs else seen)

    model.load_state_dict(other.state_dict())
    optimizer.load_state_dict(optimizer.state_dict())  # now it is known what the step begins with
    optimizer.zero_grad()
    (model(inputs) - targets).pow(2).mean().backward()
    optimizer.step()
    assert alike(buffers_of(model), buffers_of(other))


def test_a_run_that_goes_on_from_a_checkpoint_begins_with_its_buffers():
    model, other = network(), network()
    optimizer = hvdclip.optimizer("celgc", model, on_nonfinite="skip", **SETTINGS)
    other(batch(0, 0))
    state.buffers(model, optimizer.kept.keep).load(buffers_of(other))
    (model(batch(0, 1)) * float("nan")).mean().backward()
    optimizer.step()
    assert alike(buffers_of(model), buffers_of(other))


def test_what_a_user_writes_between_steps_stays():
    """As weight clipping does, which writes parameters after each step."""
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, on_nonfinite="skip", **SETTINGS)
    for step in range(3):
        (model(batch(0, step)) * (float("nan") if step == 2 else 1)).mean().backward()
        optimizer.step()
        with torch.no_grad():
            model[0].weight.clamp_(-0.1, 0.1)
        optimizer.zero_grad()
    assert model[1].num_batches_tracked.item() == 3 and model[1].running_mean.isfinite().all()


def test_nothing_is_copied_where_no_step_is_left_out():
    model = network()
    optimizer = hvdclip.optimizer("celgc", model, **SETTINGS)
    model(batch(0, 0)).mean().backward()
    optimizer.step()
    assert not optimizer.kept._copies


# beside parameters and groups


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 1)

    def forward(self, inputs):
        return self.head(self.frozen(self.body(inputs)))


GIVEN = {
    "parameters": lambda model: model.parameters(),
    "named": lambda model: model.named_parameters(),
    "groups": lambda model: [{"params": model.body.parameters()}, {"params": model.head.parameters(), "lr": 0.01}],
    "a part": lambda model: model.body,
}


@pytest.mark.parametrize(("algorithm", "more"), [*METHODS, ("decentralized_clip", {"tau": 1.0}), ("scaffold", {})])
@pytest.mark.parametrize("given", GIVEN)
def test_a_module_beside_its_parameters(given, algorithm, more):
    """Its buffers and frozen parameters are rank 0's at the start, and its statistics those of the whole module."""

    def one(comm, handed, beside):
        torch.manual_seed(comm.rank)
        model = Head()
        model.body[1].running_mean.fill_(comm.rank)
        settings = {"lr": 0.05} if algorithm in ("decentralized_clip", "scaffold") else SETTINGS
        module = model if beside else None
        optimizer = hvdclip.optimizer(algorithm, handed(model), comm=comm, module=module, **settings, **more)
        start = [model.frozen.weight.clone(), model.body[1].running_mean.clone()]
        if given == "a part":  # the rest is each rank's own to set
            model.head.requires_grad_(False).load_state_dict({"weight": torch.ones(1, 8), "bias": torch.zeros(1)})
        train(model, optimizer, comm, 6)
        optimizer.synchronize()
        return start, model.state_dict()

    found = hvdclip.simulate(lambda comm: one(comm, GIVEN[given], beside=True), 3)
    for (weight, mean), end in found:
        assert torch.equal(weight, found[0][0][0]) and mean.tolist() == [0] * 8
        assert alike(end, found[0][1]) and end["body.1.num_batches_tracked"].item() == 6
    if given == "parameters":
        as_whole = hvdclip.simulate(lambda comm: one(comm, lambda model: model, beside=False), 3)
        assert alike(as_whole[0][1], found[0][1])


def test_parameters_that_are_not_the_modules():
    model, other = Head(), nn.Linear(3, 2)
    for given in (other, [*model.parameters(), *other.parameters()], [{"params": other.parameters()}]):
        with pytest.raises(
            ValueError, match=r"module: 2 of the .* not belong to it, the first of shape \(2, 3\); allowed"
        ):
            hvdclip.optimizer("local_sgd", given, module=model, lr=0.1)
    with pytest.raises(TypeError, match="module is a list; allowed: the module that"):
        hvdclip.optimizer("local_sgd", model.parameters(), module=list(model.parameters()), lr=0.1)


def test_a_module_beside_parameters_of_one_rank_only_is_told():
    def one(comm):
        model = Head()
        beside = {"module": model} if comm.rank else {}
        hvdclip.optimizer("local_sgd", model.parameters(), lr=0.1, comm=comm, **beside)

    with pytest.raises(ValueError, match="ranks disagree on parameters and buffers"):
        hvdclip.simulate(one, 2)


# real ranks

REAL = """
import json
import horovod.torch as hvd
import torch
from torch import nn
from torch.nn.utils import parametrizations
import hvdclip

hvd.init()
rank = hvd.rank()

def run(algorithm, **more):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), parametrizations.spectral_norm(nn.Linear(8, 1)))
    groups = [{"params": model[0].parameters()}, {"params": [*model[1].parameters(), *model[2].parameters()]}]
    optimizer = hvdclip.optimizer(
        algorithm, groups, module=model, lr=0.1, max_norm=1.0, on_nonfinite="skip", **more
    )
    for step in range(8):
        inputs = torch.randn(16, 4) + rank
        if step == 5 and rank == 1:
            inputs[0, 0] = float("nan")
        optimizer.zero_grad()
        (model(inputs) - 1).pow(2).mean().backward()
        optimizer.step()
    optimizer.synchronize()
    state = torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])
    theirs = hvd.allgather(state[None], name="test")
    lengths = [vector.norm().item() for vector in model[2].buffers()]
    return theirs.eq(state).all().item(), lengths, state.isfinite().all().item(), model[1].num_batches_tracked.item()

found = [run("celgc", interval=4), run("celgc", interval=4, overlap="delayed", drift=False), run("naive_parallel_clip")]
print(f"RESULT{rank}", json.dumps(found))
"""


@pytest.mark.ranks
def test_on_real_ranks():
    done = python_ranks(REAL, 2)
    for rank in range(2):
        found = json.loads(re.search(rf"RESULT{rank} (.*)", done.stdout)[1])
        for (same, lengths, finite, batches), counted in zip(found, (8, 8, 7), strict=True):
            assert same and finite and lengths == pytest.approx([1, 1], abs=1e-6)
            assert batches == counted, "rank 0's: it leaves out a step where all ranks do"
