"""Images: as they are read and drawn, and networks with batch norm on real ranks beside simulated ones."""

import json
import sys

import digits
import pytest
import torch
from click.testing import CliRunner
from kills import HVDCLIP, PROJECT
from launch import run_ranks

import hvdclip
from hvdclip.cli import main
from hvdclip.config import load
from hvdclip.data.image_folder import IMAGENET, image_folder
from hvdclip.data.images import CIFAR10, cifar10
from hvdclip.data.mnist import mnist
from hvdclip.data.synthetic import synthetic
from hvdclip.data.vision import torchvision
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loading import read
from hvdclip.training.loop import Trainer


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        *((["name=celgc", "interval=2"], policy) for policy in ("average", "keep", "broadcast")),
        (["name=naive_parallel_clip", "interval=null"], "average"),
    ],
)
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


@pytest.mark.ranks
def test_large_networks_take_real_steps_with_every_policy_of_batch_norm(tmp_path):
    """ResNet-56 and torchvision's ResNet-50, on synthetic images and digits in colours; two steps, then an average."""
    digits.write(tmp_path)
    done = run_ranks([sys.executable, "tests/ranks_of_images.py", str(tmp_path)], 2, timeout=250, cwd=PROJECT)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 16
    for job, ranks in found.items():
        model, _, policy = job.split()
        assert {rank["parameters"] for rank in ranks} == {{"resnet56": 853_018, "resnet50": 23_528_522}[model]}
        assert 1 < ranks[0]["loss"] < 10 and ranks[0]["moved"] > 1 and ranks[1]["moved"] > 1
        assert ranks[0]["weights"] == ranks[1]["weights"], "alike to the bit after the average"
        own = [rank["buffers"] for rank in ranks]
        assert (own[0] == own[1]) == (policy != "keep"), job
    for model in ("resnet56", "resnet50"):
        for source in ("synthetic", "digits"):
            kept, mean, first = (
                [rank["buffers"] for rank in found[f"{model} {source} {policy}"]]
                for policy in ("keep", "average", "broadcast")
            )
            assert mean[0] == pytest.approx([(a + b) / 2 for a, b in zip(*kept, strict=True)], rel=1e-4, abs=1e-4)
            assert first[1] == kept[0], "what rank 0 keeps"


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
    assert "does not have all of CIFAR10: hvdclip data cifar10 downloads it" in refused.output


def test_a_folder_of_images_is_torchvisions(tmp_path):
    digits.write_folder(tmp_path)
    found = image_folder(str(tmp_path), side=32)
    v2 = torchvision().transforms.v2
    to_numbers = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)]
    middle = v2.Compose([v2.Resize(37), v2.CenterCrop(32), *to_numbers])
    theirs = torchvision().datasets.ImageFolder(str(tmp_path / "val"), transform=middle)
    assert len(theirs) == 8 and found["val"].labels.tolist() == theirs.targets == [0] * 4 + [1] * 4
    rows = found["val"].rows(torch.arange(8))
    assert all((row - theirs[k][0]).abs().max() < 0.05 for k, row in enumerate(rows)), (
        "resized as tensors, not by Pillow"
    )
    assert found["train"].shape == (3, 32, 32) and found["train"].classes == 2


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_is_drawn_of_a_folders_image_follows_from_the_seed(tmp_path, in_memory):
    digits.write_folder(tmp_path)
    train = image_folder(str(tmp_path), side=24, in_memory=in_memory)["train"]
    chosen = torch.tensor([0, 5, 23, 5])
    drawn = train.rows(chosen, seed=3)
    assert drawn.shape == (4, 3, 24, 24)
    torch.rand(5)
    assert torch.equal(drawn, train.rows(chosen, seed=3)) and not torch.equal(drawn, train.rows(chosen, seed=4))
    assert not torch.equal(drawn[1], drawn[3]), "drawn anew each time"
    plain = image_folder(str(tmp_path), side=24, augment=False)["train"]
    assert torch.equal(plain.rows(chosen, seed=3), train.rows(chosen)), "evaluated as they are"


def test_what_is_wrong_with_a_folder_of_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/train has no folders of images, one for each class"):
        image_folder(str(tmp_path))
    digits.write_folder(tmp_path)
    damaged = tmp_path / "train/n01443537/n01443537_1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:500])
    (tmp_path / "train/n01443537/n01443537_2.JPEG").write_bytes(b"no image")
    train = image_folder(str(tmp_path), side=8)["train"]
    numbers = {path: number for number, (path, _) in enumerate(train.files.samples)}
    for path in (damaged, damaged.with_name("n01443537_2.JPEG")):
        number = numbers[str(path)]
        with pytest.raises(ValueError, match=f"{path} is not an image, or is damaged: "):
            train.rows(torch.tensor([number]))
    (tmp_path / "val/n09999999").mkdir()
    with pytest.raises(ValueError, match="train and val have different folders of classes: n09999999 in one only"):
        image_folder(str(tmp_path), side=16)


@pytest.mark.ranks
def test_a_damaged_image_ends_a_run_by_its_name(tmp_path):
    digits.write_folder(tmp_path)
    (tmp_path / "train/n01443537/n01443537_2.JPEG").write_bytes(b"no image")
    data = f"data={{name: image_folder, side: 16, batch: 4, workers: 2, root: {tmp_path}}}"
    command = [HVDCLIP, "train", "configs/mnist_cnn.yaml", data, "train.epochs=1", "train.milestones=[]"]
    ended = run_ranks([*command, "--run-dir", str(tmp_path / "run")], 2, check=False, cwd=PROJECT)
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("hvdclip: ")]
    assert "n01443537_2.JPEG is not an image, or is damaged: cannot identify image file" in said[0]


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_change_neither_what_is_read_nor_what_is_drawn_elsewhere(tmp_path, workers):
    digits.write_folder(tmp_path)
    train = image_folder(str(tmp_path), side=16)["train"]
    draws = [(torch.tensor([k, k + 1, 3]), 10 + k) for k in range(7)]
    before = torch.get_rng_state()
    found = list(read(train, iter(draws), workers, torch.device("cpu")))
    assert torch.equal(before, torch.get_rng_state())
    for (rows, labels), (chosen, seed) in zip(found, draws, strict=True):
        assert torch.equal(rows, train.rows(chosen, seed)) and torch.equal(labels, train.labels[chosen])


@pytest.mark.ranks
def test_a_run_with_workers_and_random_parts_of_images_goes_on_to_the_bit_in_mid_epoch(tmp_path):
    """Also with another number of workers, since what is drawn follows from place and seed."""
    data = digits.write_folder(tmp_path / "data")
    job = [*("configs/mnist_cnn.yaml", "model={name: resnet, depth: 8}", "train.epochs=null", "train.milestones=[]")]
    job += [f"data={{name: image_folder, root: {data}, side: 20, batch: 4}}", "algorithm.interval=2"]
    job += ["train.evaluate_every_steps=1000", "checkpoint.every_steps=2"]

    def train(name, steps, *more):
        command = [HVDCLIP, "train", *job, f"train.steps={steps}", *more, "--run-dir", str(tmp_path / name)]
        run_ranks(command, 2, cwd=PROJECT)
        return json.loads((tmp_path / name / "summary.json").read_text())

    whole = train("whole", 8, "data.workers=2")
    part = train("cut", 4, "data.workers=2")
    assert part["epoch"] == pytest.approx(4 / 3, abs=1e-6)
    resumed = train("cut", 8, "data.workers=1", "--resume")
    assert resumed["model_sha256"] == whole["model_sha256"] and resumed["final"] == whole["final"]


def test_synthetic_images_are_the_same_everywhere_and_repeat():
    found = synthetic(samples=600, channels=2, side=4, classes=7, test_samples=5)
    train = found["train"]
    assert train.shape == (2, 4, 4) and train.classes == 7 and len(found["test"].labels) == 5
    assert torch.equal(train.rows(torch.tensor([1])), train.rows(torch.tensor([1 + 256, 1 + 512]))[1:])
    assert torch.equal(train.features, synthetic(601, 2, 4, 7, 5)["train"].features)
    assert train.labels[1] == train.labels[1 + 256] == 1 and train.labels[255] == 255 % 7
    assert synthetic(samples=300, side=2, classes=1000)["train"].classes == 1000
    assert abs(train.features.mean()) < 0.02 and abs(train.features.std() - 1) < 0.02
    assert torch.equal(train.features[:5], found["test"].features)


def test_digits_in_colours_are_grey(tmp_path):
    digits.write(tmp_path)
    grey, coloured = (mnist(str(tmp_path), rgb=rgb)["test"] for rgb in (False, True))
    rows = coloured.rows(torch.tensor([3, 5]))
    assert rows.shape == (2, 3, 28, 28) and all(
        torch.equal(rows[:, c], grey.rows(torch.tensor([3, 5]))[:, 0]) for c in range(3)
    )


@pytest.mark.parametrize("config", ["cifar10_resnet56", "cifar10_resnet32"])
def test_the_papers_jobs_train(tmp_path, monkeypatch, config):
    digits.write_colours(tmp_path, monkeypatch)
    few = ["train.epochs=null", "train.milestones=[]", "train.steps=2", "data.batch=4", f"data.root={tmp_path}"]
    done = CliRunner().invoke(main, ["train", f"configs/{config}.yaml", *few, "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert {"cifar10_resnet56": "853,018", "cifar10_resnet32": "464,154"}[config] in done.output
