"""What training would refuse of a configuration alone, submit refuses too, before any rank or job exists."""

import sys

import pytest
from click.testing import CliRunner
from conftest import PROJECT

from hvdclip.cli import main
from hvdclip.config import check, check_saved

TEXT, IMAGES = PROJECT / "configs/quickstart.yaml", PROJECT / "configs/mnist_cnn.yaml"
STEPS = ["train.epochs=null", "train.milestones=[]", "train.steps=8", "train.evaluate_every_steps=8"]
DRAWN = "data={name: synthetic, samples: 64, side: 8, classes: 3, batch: 4}"
ONE_RANK_IS_TOO_FEW = """
from hvdclip.methods.celgc import CELGC


class Pairs(CELGC):
    name = "pairs"

    def __init__(self, model, settings, comm):
        if comm.size < 2:
            raise ValueError("pairs needs two ranks")
        super().__init__(model, settings, comm)
"""


NO_SLURM = "hvdclip: sbatch is not on PATH: SLURM does not take jobs from this machine\n"  # what an accepted one meets


@pytest.fixture
def submit(monkeypatch, tmp_path):
    """hvdclip submit on a machine without SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = ["--run-dir", str(tmp_path / "run")]
    return lambda config, *overrides: CliRunner().invoke(main, ["submit", str(config), *folder, *overrides])


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        (
            TEXT,
            ["algorithm.interval=auto", "algorithm.drift_budget=1.0", "algorithm.drift=false"],
            "algorithm: drift_budget is 1.0, which needs interval auto and drift True",
        ),
        (TEXT, ["log.drift=false"], "log.drift: set algorithm.drift instead"),
        (
            TEXT,
            ["algorithm={name: local_sgd, lr: 0.1, inner: LBFGS}"],
            "algorithm: inner is LBFGS, which needs several gradients a step; allowed: optimizers that need one",
        ),
        (
            IMAGES,
            ["algorithm={name: episode_pp, lr: 0.1, gamma: 0.1, interval: 4, participants: 3}"],
            "train: with episode_pp ranks read different amounts of data, so epochs mean nothing; give steps and "
            "evaluate_every_steps, and no milestones or warmup_epochs",
        ),
        (
            IMAGES,
            ["algorithm={name: episode, lr: 0.1, gamma: 0.1}", "train.precision=fp16"],
            "train.precision is fp16; allowed with episode: fp32, bf16, since it needs more than one gradient in a",
        ),
        (
            IMAGES,
            ["algorithm={name: bucket_clip, lr: 0.1, gamma: 0.1}", "train.accumulate=2"],
            "train.accumulate is 2; allowed with bucket_clip: 1, since it sends during backward",
        ),
        (
            TEXT,
            ["train.stage=/tmp"],
            "train.stage is '/tmp', but data.name is stdlib; allowed: none, or the data a9a, cifar10, cifar100, mnist, "
            "mushrooms, ptb, wikitext-2 or libsvm",
        ),
        (
            IMAGES,
            ["data={name: image_folder, on_device: true}"],
            "data.on_device is True with image_folder; allowed: False, since its images are files",
        ),
        (
            IMAGES,
            ["model=mlp", "train.channels_last=true"],
            "train.channels_last is True, but the model has no convolutions of images; allowed: False",
        ),
        (
            IMAGES,
            ["model=alexnet", "train.sync_batch_norm=true"],
            "train.sync_batch_norm is True, but the model has no batch norm; allowed: False",
        ),
        (
            IMAGES,
            ["model=resnet50", DRAWN, "data.channels=1"],
            "the data's samples have the shape (1, 8, 8); allowed: images (3, height, width)",
        ),
        (TEXT, ["data.vocabulary_limit=1"], "data.vocabulary_limit is 1; allowed: greater than or equal to 2"),
        (TEXT, ["train.seed=9223372036854775808"], "train.seed is 9223372036854775808; allowed: less than or equal"),
        (
            PROJECT / "configs/phase_retrieval.yaml",
            ["data.second_batch=65", "data.batch=64"],
            "data.second_batch is 65; allowed: same, or up to data.batch, 64",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_submit_says_in_one_line_what_train_would(config, overrides, said, submit):
    refused = submit(config, *overrides)
    assert refused.exit_code == 2
    assert refused.output.startswith(f"hvdclip: {said}") and refused.output.count("\n") == 1, refused.output


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (IMAGES, ["algorithm={name: episode_pp, lr: 0.1, gamma: 0.1, interval: 4, participants: 3}", *STEPS]),
        (IMAGES, ["algorithm={name: ef21_norm, lr: 0.1, k: 1000}"]),
        (TEXT, ["algorithm.interval=8", "algorithm.node_interval=2"]),
        (TEXT, ["algorithm.interval=auto", "algorithm.drift_budget=1.0"]),
        (IMAGES, ["model=resnet50", "train.sync_batch_norm=true", "train.channels_last=true"]),
        (IMAGES, ["model=cnn", DRAWN]),
        (PROJECT / "configs/quadratics.yaml", ["data.dimension=100000"]),
    ],
)
def test_what_ranks_or_data_decide_is_left_to_the_run(config, overrides, submit):
    assert submit(config, *overrides).output == NO_SLURM


def test_a_method_of_ones_own_that_needs_ranks_is_left_to_the_run(tmp_path, monkeypatch, own_methods, submit):
    (tmp_path / "pairs_of_ranks.py").write_text(ONE_RANK_IS_TOO_FEW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert submit(TEXT, "algorithm.name=pairs_of_ranks:Pairs").output == NO_SLURM
    sys.modules.pop("pairs_of_ranks")


@pytest.mark.parametrize("drift", [True, False])
def test_a_run_of_before_keeps_its_drift(drift):
    """Its config.yaml has what is algorithm.drift now in the section log, whatever the method."""
    rest = {"model": "lstm", "data": "stdlib", "train": {"steps": 10}}
    local = check(rest | {"algorithm": {"name": "celgc", "lr": 1.0, "gamma": 0.5}}).resolved
    of_before = local | {"algorithm": dict(local["algorithm"]), "log": local["log"] | {"drift": drift}}
    del of_before["algorithm"]["drift"]
    assert check_saved(of_before).algorithm["drift"] is drift
    assert of_before["log"]["drift"] is drift, "what was read is left as it is"
    of_gradients = check(rest | {"algorithm": {"name": "minibatch_sgd", "lr": 1.0}}).resolved
    saved = check_saved(of_gradients | {"log": of_gradients["log"] | {"drift": drift}})
    assert saved.resolved == of_gradients
