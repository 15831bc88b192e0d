"""Images: as they are read and drawn, and networks with batch norm on real ranks beside simulated ones."""

import json

import digits
import pytest
import torch
from click.testing import CliRunner
from kills import HVDCLIP, PROJECT
from launch import run_ranks

import hvdclip
from hvdclip.cli import main
from hvdclip.config import load
from hvdclip.data.images import CIFAR10, cifar10
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.vision import torchvision


@pytest.mark.ranks
@pytest.mark.parametrize("policy", ["average", "keep", "broadcast"])
@pytest.mark.parametrize("algorithm", [["name=celgc", "interval=2"], ["name=naive_parallel_clip", "interval=null"]])
def test_a_resnet_on_real_ranks_is_as_on_simulated_ones(tmp_path, policy, algorithm):
    digits.write(tmp_path)
    settings = [f"algorithm.{setting}" for setting in (*algorithm, f"buffer_policy={policy}")]
    overrides = [*settings, "model={name: resnet, depth: 8}", f"data.root={tmp_path}", "data.batch=4", "train.steps=5"]
    overrides += ["train.epochs=null", "train.milestones=[]"]
    run = tmp_path / "run"
    run_ranks([HVDCLIP, "train", "configs/mnist_cnn.yaml", *overrides, "--run-dir", str(run)], 2, cwd=PROJECT)

    def one(comm):
        trainer, memory = Trainer(Job(load(PROJECT / "configs/mnist_cnn.yaml", overrides), comm)), Memory()
        trainer.train(memory, Silent())
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}, memory.rows

    simulated, rows = hvdclip.simulate(one, 2)[0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["test"]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    real = torch.load(run / "checkpoints/final.pt", weights_only=True)
    if policy != "keep":  # then the model outside of an evaluation has rank 0's own buffers again
        assert all(torch.allclose(real[name], value, rtol=1e-4, atol=1e-6) for name, value in simulated.items())


def test_images_are_torchvisions_scaled_by_channel(tmp_path, monkeypatch):
    digits.write_colours(tmp_path, monkeypatch)
    found = cifar10(str(tmp_path))
    theirs = torchvision().datasets.CIFAR10(str(tmp_path), train=True)
    mean, deviation = (torch.tensor(moment).view(3, 1, 1) for moment in CIFAR10)
    expected = (torch.from_numpy(theirs.data[7]).permute(2, 0, 1) / 255 - mean) / deviation
    assert torch.allclose(found["train"].rows(torch.tensor([7]))[0].view(3, 32, 32), expected, atol=1e-6)
    assert found["train"].labels.tolist() == theirs.targets and len(found["test"].labels) == 20
    assert found["train"].classes == 10


def test_a_drawn_image_is_a_crop_of_the_padded_one_or_its_mirror_image(tmp_path, monkeypatch):
    digits.write_colours(tmp_path, monkeypatch)
    data = cifar10(str(tmp_path))["train"]
    chosen = torch.arange(12)
    drawn = data.rows(chosen, seed=5).view(-1, 3, 32, 32)
    assert torch.equal(drawn, data.rows(chosen, seed=5).view_as(drawn)), "the same by the same seed"
    assert not torch.equal(drawn, data.rows(chosen, seed=6).view_as(drawn))
    zero = data.rows(chosen).view_as(drawn)
    black = -torch.tensor(CIFAR10[0]) / torch.tensor(CIFAR10[1])
    padded = black.view(1, 3, 1, 1).expand(12, 3, 40, 40).clone()
    padded[:, :, 4:36, 4:36] = zero
    crops = [padded[:, :, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    both = torch.stack([view for crop in crops for view in (crop, crop.flip(3))])
    apart = (both - drawn).abs().amax(dim=(2, 3, 4))  # (crops, images)
    assert apart.min(dim=0).values.max() < 1e-5
    assert len(set(apart.argmin(dim=0).tolist())) > 4
    assert torch.equal(data.rows(chosen), data.rows(chosen)), "evaluated as they are"


def test_damaged_images_are_named(tmp_path, monkeypatch):
    folder = digits.write_colours(tmp_path, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"nothing")
    refused = CliRunner().invoke(
        main, ["train", "configs/cifar10_resnet56.yaml", f"data.root={tmp_path}", "--run-dir", "x"]
    )
    assert refused.exit_code == 2
    assert "does not hold CIFAR10 whole: hvdclip data cifar10 brings it" in refused.output


@pytest.mark.parametrize("config", ["cifar10_resnet56", "cifar10_resnet32"])
def test_the_papers_jobs_train(tmp_path, monkeypatch, config):
    digits.write_colours(tmp_path, monkeypatch)
    few = ["train.epochs=null", "train.milestones=[]", "train.steps=2", "data.batch=4", f"data.root={tmp_path}"]
    done = CliRunner().invoke(main, ["train", f"configs/{config}.yaml", *few, "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert {"cifar10_resnet56": "853,018", "cifar10_resnet32": "464,154"}[config] in done.output
