"""Buffers beside x: which are averaged, which are rank 0's, and what a step that is left out leaves of them."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import HistogramObserver, MinMaxObserver
from torch.nn.utils import parametrizations, prune

import hvdclip
from hvdclip.messages import Buffers
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
        ({"*": "mean"}, ValueError, "allowed: 'average', 'keep' or 'broadcast', or {pattern"),
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
