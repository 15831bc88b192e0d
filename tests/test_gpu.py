"""What only a CUDA device can show; without one every test here says that it was skipped."""

import json
import re
import sys

import pytest
import torch
from kills import HVDCLIP, PROJECT
from launch import run_ranks
from torch import nn
from torch.nn.functional import cross_entropy

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.config import check
from hvdclip.hosts.facts import _uuid_by_driver, facts
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

DATA = {"name": "synthetic", "samples": 96, "test_samples": 40, "side": 8, "classes": 7, "batch": 8}


def trained(device, algorithm=None, data=None, **train):
    config = {
        "algorithm": {"name": "celgc", "lr": 0.2, "gamma": 0.1, "interval": 2} | (algorithm or {}),
        "model": {"name": "cnn", "dropout": 0.0},
        "data": DATA | (data or {}),
        "train": {"steps": 12, "evaluate_every_steps": 6, "device": device} | train,
    }
    trainer, memory = Trainer(Job(check(config), SingleRank())), Memory()
    trainer.train(memory, Silent())
    return torch.cat([p.detach().flatten().cpu() for p in trainer.model.parameters()]), memory, trainer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9, "weight_decay": 1e-4},
        {"weight_decay_on": "weights"},
        *({"inner": {"name": inner}} for inner in ("AdamW", "NAdam", "SGD")),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["celgc", "local_sgd", "normalized_sgd"])
def test_a_local_step_never_waits_for_the_gpu(name, settings):
    if name == "normalized_sgd":
        settings = {key: value for key, value in settings.items() if key not in ("momentum", "inner")}
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 7)).cuda()
    clip = {"gamma": 0.1} if name == "celgc" else {}
    method = hvdclip.optimizer(name, model, comm=SingleRank(), lr=0.1, interval=1000, **clip, **settings)
    images, labels = torch.randn(16, 64, device="cuda"), torch.randint(7, (16,), device="cuda")
    for step in range(8):
        method.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first step makes what stays
        try:
            method.record(loss=loss, samples=16)
            method.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "algorithm", [{}, {"momentum": 0.9, "weight_decay": 0.01}, {"overlap": "delayed", "interval": 4}]
)
def test_a_gpu_trains_as_the_cpu_does(algorithm):
    ours, memory, _ = trained("cuda", algorithm)
    theirs, lines, _ = trained("cpu", algorithm)
    assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)
    for line, other in zip(memory.lines, lines.lines, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert line["clip_fraction"] == other["clip_fraction"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_train_as_float32_does(precision):
    ours, memory, trainer = trained("cuda", precision=precision)
    theirs, lines, _ = trained("cuda")
    assert torch.allclose(ours, theirs, rtol=0.1, atol=1e-2)
    assert sum(line["skipped"] for line in memory.lines) <= 2, "overflows while the scale is found"
    assert trainer.precision.scaler.is_enabled() == (precision == "fp16")
    assert memory.rows[-1]["loss"] == pytest.approx(lines.rows[-1]["loss"], rel=0.05)


def test_an_overflow_in_fp16_is_left_out_and_counted():
    _, _, trainer = trained("cuda", precision="fp16")
    trainer.precision.scaler._scale = torch.full((), 2.0**60, device="cuda")
    before = trainer.optimizer.x.clone()
    trainer.step()
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before.parts, trainer.optimizer.x.parts, strict=True))
    assert trainer.optimizer.last_round["skipped"] == 2


def test_samples_on_the_gpu_are_the_same_samples():
    ours, memory, _ = trained("cuda", data={"on_device": True})
    theirs, lines, _ = trained("cuda")
    assert torch.equal(ours, theirs) and memory.rows == lines.rows


def test_channels_last_and_compiled_models_train_on_a_gpu():
    plain, _, _ = trained("cuda")
    for option in ("channels_last", "compile"):
        found, _, _ = trained("cuda", **{option: True})
        assert torch.allclose(found, plain, rtol=1e-2, atol=1e-3), option


def test_the_peak_of_its_memory_is_told():
    _, _, trainer = trained("cuda")
    assert trainer._totals()["peak_bytes"] == torch.cuda.max_memory_allocated() > 1e5


@pytest.mark.ranks
def test_horovod_averages_by_nccl(tmp_path):
    """One rank a GPU; several ranks where there are several."""
    ranks = min(4, torch.cuda.device_count())
    built = run_ranks([sys.executable, "-c", "import horovod.torch as h; h.init(); print(h.nccl_built())"], ranks)
    assert "0" not in built.stdout.split(), "Horovod was built without NCCL"
    data = "data={name: synthetic, samples: 256, side: 16, classes: 7, batch: 8}"
    command = [HVDCLIP, "train", "configs/mnist_cnn.yaml", data, "train.epochs=2", "train.milestones=[]"]
    for overlap in ("none", "delayed"):
        run = tmp_path / overlap
        more = [f"algorithm.overlap={overlap}", "algorithm.interval=4", "train.device=cuda", "--run-dir", str(run)]
        run_ranks([*command, *more], ranks, cwd=PROJECT)
        assert json.loads((run / "summary.json").read_text())["ranks"] == ranks


AVERAGES = """
import sys
import torch
import horovod.torch as hvd
from hvdclip.comm.horovod import Horovod

hvd.init()
device = torch.device("cuda", hvd.local_rank() % torch.cuda.device_count())
torch.cuda.set_device(device)
comm = Horovod(host_staging=sys.argv[1] == "host")
for step in range(20):
    busy = torch.randn(2000, 2000, device=device)
    for _ in range(5):
        busy = busy @ busy / 2000  # the message below waits for these
    message = torch.full((10**6,), float(comm.rank + step), device=device) + 0 * busy[0, 0].nan_to_num()
    comm.average_([message])
    expected = step + (comm.size - 1) / 2
    assert (message == expected).all(), (step, message[:3], expected)
    rows = torch.arange(comm.size * 3.0, device=device).view(comm.size, 3) + comm.rank
    for rank, row in enumerate(comm.start_reduction(rows, lambda found: found.sum(dim=0))()[0]):
        ours = comm.size * (torch.arange(3.0, device=device) + 3 * rank) + sum(range(comm.size))
        assert torch.equal(row, ours), (step, rank, row, ours)
print("WELL", flush=True)
"""


@pytest.mark.ranks
@pytest.mark.parametrize("way", ["host", "direct"])
def test_numbers_that_a_gpu_has_still_to_make_are_averaged(way, tmp_path):
    """By the host two ranks may have one GPU."""
    script = tmp_path / "averages.py"
    script.write_text(AVERAGES)
    ranks = 2 if way == "host" else min(4, torch.cuda.device_count())
    done = run_ranks([sys.executable, str(script), way], ranks)
    assert done.stdout.split().count("WELL") == ranks


@pytest.mark.ranks
def test_two_ranks_share_a_gpu_and_train_as_on_cpus(tmp_path):
    found = {}
    for device in ("cuda", "cpu"):
        run = tmp_path / device
        more = ["train.steps=40", "comm.share_gpus=true", f"train.device={device}", "--run-dir", str(run)]
        command = [HVDCLIP, "train", "configs/quadratics.yaml", *more]
        run_ranks(command, 2, cwd=PROJECT, env={"CUDA_VISIBLE_DEVICES": "0"})
        found[device] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-3)


def test_the_gpu_is_told_apart_by_its_uuid():
    told = facts(SingleRank())
    assert re.fullmatch(r"(GPU-|MIG-)?[0-9a-f-]{36}", told.gpu) and len(told.gpus) == torch.cuda.device_count()
    assert str(_uuid_by_driver(0)) == str(torch.cuda.get_device_properties(0).uuid)
