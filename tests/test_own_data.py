"""Data, models and losses of one's own: where modules are found, what loaders and batches may be."""

import collections
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command import hvdclip
from launch import run_ranks

from hvdclip.training.batches import moved, samples_in

PROJECT = Path(__file__).parent.parent
NAMES = (f"own_data_{number}" for number in itertools.count())  # imported once in a process

MODULE = """
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {item}


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y)


class Counted(Stream):
    def __len__(self):
        return len(X)


def build():
    torch.manual_seed(3)
    return torch.nn.Linear(4, 1)


def loss(model, batch):
    return torch.nn.functional.mse_loss(model({inputs}), {targets})


def bad_loss(model, batch):
    return model({inputs})


def batches(rows):
    return DataLoader(rows, batch_size=4)


def loaders(rank, ranks):
    return {loaders}
"""
PAIRS = {"item": "X[i], Y[i]", "inputs": "batch[0]", "targets": "batch[1]"}
DICTIONARIES = {"item": '{"x": X[i], "y": Y[i], "id": str(i)}', "inputs": 'batch["x"]', "targets": 'batch["y"]'}
TRIPLES = {"item": "X[i], i, Y[i]", "inputs": "batch[0]", "targets": "batch[2]"}
LOADERS = '{"train": batches(Rows()), "valid": batches(Rows())}'


def job(folder, loaders=LOADERS, loss="mse_loss", **kind):
    """The YAML file of a job, with its module beside it."""
    folder.mkdir(exist_ok=True)
    name = next(NAMES)
    (folder / f"{name}.py").write_text(MODULE.format(loaders=loaders, **PAIRS | kind))
    settings = {
        "algorithm": {"name": "celgc", "lr": 0.1, "gamma": 1.0, "interval": 2},
        "model": f"{name}:build",
        "data": f"{name}:loaders",
        "train": {"steps": 12, "evaluate_every_steps": 6, "loss": loss.replace("own:", f"{name}:")},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    return folder / "job.yaml"


@pytest.fixture(autouse=True)
def path_as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def trained(file, run):
    hvdclip("train", file, "--run-dir", run)
    evaluations = [yaml.safe_load(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    return torch.load(run / "checkpoints/final.pt"), [row["loss"] for row in evaluations]


@pytest.mark.parametrize("kind", [PAIRS, DICTIONARIES, TRIPLES], ids=["pairs", "dictionaries", "triples"])
def test_a_loss_of_ones_own_takes_batches_of_any_kind(tmp_path, kind):
    """The same numbers as torch's loss of pairs."""
    model, losses = trained(job(tmp_path / "own", loss="own:loss", **kind), tmp_path / "run")
    expected, theirs = trained(job(tmp_path / "torchs"), tmp_path / "expected")
    assert torch.equal(model["weight"], expected["weight"]) and torch.equal(model["bias"], expected["bias"])
    assert losses == theirs and losses[-1] < losses[0]


def test_an_iterable_dataset_with_a_length(tmp_path):
    stream = '{"train": batches(Counted()), "valid": batches(Stream())}'
    model, losses = trained(job(tmp_path / "stream", stream), tmp_path / "run")
    expected, theirs = trained(job(tmp_path / "rows"), tmp_path / "expected")
    assert torch.equal(model["weight"], expected["weight"]) and losses == theirs


WHAT = "allowed: (inputs, targets); or any kind with train.loss: my.module:loss, which is called as loss(model, batch)"
ITERABLES = 'allowed: a dictionary {"train": ..., "valid": ...} of iterables over batches, such as DataLoaders'


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"loaders": "batches(Rows())"}, f"the function of data returned of type DataLoader; {ITERABLES}"),
        ({"loaders": "(batches(Rows()), 1)"}, f"the function of data returned a tuple of length 2; {ITERABLES}"),
        ({"loaders": "None"}, f"the function of data returned None; {ITERABLES}"),
        ({"loaders": '{"train": batches(Rows())}'}, "the loaders are train; allowed: train and at least one split"),
        (
            {"loaders": '{"train": batches(Stream()), "valid": batches(Rows())}'},
            "the train loader has no length (object of type 'Stream' has no len()); allowed: one with a length; an "
            "IterableDataset needs __len__, its number of samples on this rank",
        ),
        (
            {"loaders": '{"train": batches(Rows()), "valid": iter(batches(Rows()))}'},
            "the valid loader is of type _SingleProcessDataLoaderIter; allowed: an iterable that can be iterated",
        ),
        (DICTIONARIES, f"data: a batch of the train loader is a dict with x, y, id; {WHAT}"),
        (TRIPLES, f"data: a batch of the train loader is a list of length 3; {WHAT}"),
        ({"item": "X[i]"}, f"data: a batch of the train loader is a tensor of shape (4, 4); {WHAT}"),
        ({"item": "X[i], 'a'"}, f"data: a batch of the train loader is a list of length 2; {WHAT}"),
        (
            {"loss": "own:bad_loss"},
            ":bad_loss returned a tensor of shape (4, 1); allowed: a tensor of one number, the mean over the batch",
        ),
        (
            {"loss": "own:loss", "item": "str(i)"},
            "a list of length 4, has no tensor whose first dimension counts samples",
        ),
        ({"loss": "own:no"}, "cannot be imported: module 'own_data_"),
        ({"loss": "no_loss"}, "train: loss is 'no_loss'; allowed: torch.nn.functional's losses"),
    ],
)
def test_what_is_no_loader_and_no_batch_is_told_in_one_line(tmp_path, how, said):
    done = hvdclip("train", job(tmp_path / "job", **how), "--run-dir", tmp_path / "run", check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("hvdclip: ") and said in lines[0], done.stderr


def test_settings_that_an_own_loss_does_not_know_or_named_data_do_not_need(tmp_path):
    own = job(tmp_path / "job", loss="own:loss")
    done = hvdclip("train", own, "train.accumulate=2", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "hvdclip: train.accumulate is 2; allowed with your own loss: 1\n",
    )
    done = hvdclip("train", "configs/quickstart.yaml", "train.loss=mse_loss", check=False)
    assert done.returncode == 2 and "train.loss is mse_loss; allowed with data" in done.stderr


def test_batches_on_their_way_to_the_device():
    Pair = collections.namedtuple("Pair", "x y")
    found = moved({"a": [torch.ones(3), "text"], "b": Pair(torch.ones(2), 5)}, torch.device("meta"))
    assert found["a"][0].is_meta and found["a"][1] == "text" and found["b"].x.is_meta and found["b"].y == 5
    assert samples_in(["a", torch.tensor(1.0), {"x": torch.ones(7, 2)}], "train") == 7


@pytest.mark.slow
def test_a_module_beside_the_yaml_is_found_from_any_folder(tmp_path):
    """Also by eval, which knows the run directory alone, and not where another module of that name is nearer."""
    file, elsewhere = job(tmp_path / "jobs", loss="own:loss"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = tmp_path / "runs/one"

    def command(*arguments):
        line = [sys.executable, "-m", "hvdclip", *map(str, arguments)]
        env = os.environ | {"PYTHONPATH": str(PROJECT)}
        return subprocess.run(line, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=120)

    done = command("train", file, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    done = command("eval", run)
    assert done.returncode == 0 and "valid  loss " in done.stdout, done.stderr
    written = (run / "config.yaml").read_text().splitlines()[0]
    assert written == f"# modules of one's own are looked for in: {tmp_path / 'jobs'}"
    done = command("train", run / "config.yaml", "--run-dir", tmp_path / "again")
    assert done.returncode == 0, done.stderr


@pytest.mark.ranks
def test_a_batch_that_is_none_is_one_line_of_each_rank(tmp_path):
    file = job(tmp_path / "job", **DICTIONARIES)
    command = [sys.executable, "-m", "hvdclip", "train", str(file), "--run-dir", str(tmp_path / "run")]
    done = run_ranks(command, 2, cwd=PROJECT, check=False)
    assert done.returncode == 2
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("hvdclip: ")]
    assert said[0] == f"hvdclip: rank 0: data: a batch of the train loader is a dict with x, y, id; {WHAT}"
    assert "Traceback" not in done.stderr
