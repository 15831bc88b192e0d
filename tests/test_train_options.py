"""What the train section does to a model and its steps: schedule, loss, pieces, numbers, batch norm."""

import copy
import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from click.testing import CliRunner
from test_state import check_round_trip
from torch import nn
from torch.nn import functional

import hvdclip
from hvdclip.cli import main
from hvdclip.comm import SingleRank
from hvdclip.config import ConfigError, check
from hvdclip.methods import NonFiniteGradient
from hvdclip.models.cnn import CNN
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.sync_batch_norm import synchronised

CELGC = {"name": "celgc", "lr": 0.2, "gamma": 0.1, "interval": 2}
DATA = {"name": "synthetic", "samples": 96, "test_samples": 40, "side": 8, "classes": 7, "batch": 8}


def job(model=None, data=None, algorithm=None, comm=None, **train):
    """A trainer of a few steps on synthetic images."""
    config = {
        "algorithm": CELGC | (algorithm or {}),
        "model": model or {"name": "mlp", "hidden": [16]},
        "data": DATA | (data or {}),
        "train": {"steps": 6, "evaluate_every_steps": 6} | train,
    }
    return Trainer(Job(check(config), comm or SingleRank()))


def trained(**settings):
    """(trainer, what it has written) of such a job done."""
    trainer, memory = job(**settings), Memory()
    trainer.train(memory, Silent())
    return trainer, memory


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# schedule


def test_lr_grows_in_a_straight_line_and_falls_at_milestones_and_gamma_goes_with_it():
    # 12 batches an epoch, and a round of 2 steps ends with the lr of its last step
    train = {"steps": 60, "warmup_epochs": 1.5, "warmup_from": 0.25, "milestones": [2, 4], "decay": 0.5}
    _, memory = trained(algorithm={"momentum": 0.5}, **train)
    for line in memory.lines:
        epoch = (line["step"] - 1) / 12
        expected = 0.2 * (0.25 + 0.75 * min(1, epoch / 1.5)) * 0.5 ** ((epoch >= 2) + (epoch >= 4))
        assert line["lr"] == pytest.approx(expected, rel=1e-12)
        assert line["gamma"] == pytest.approx(expected / 2, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_curves_are_those_of_torchs_schedulers(schedule, warmup):
    steps, final = 20, 0.1 if schedule != "constant" else 0.0
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    lower = torch.optim.lr_scheduler
    falls = {
        "cosine": [lower.CosineAnnealingLR(other, steps - warmup, eta_min=0.2 * final)],
        "linear": [lower.LinearLR(other, 1.0, final, steps - warmup)],
        "wsd": [lower.ConstantLR(other, 1.0, 1), lower.LinearLR(other, 1.0, final, 5)],
        "constant": [lower.ConstantLR(other, 1.0, 1)],
    }[schedule]
    starts = [warmup] * bool(warmup) + [steps - 5] * (schedule == "wsd")
    theirs = lower.SequentialLR(other, [lower.LinearLR(other, 0.25, 1.0, warmup)] * bool(warmup) + falls, starts)
    train = {"warmup_steps": warmup, "warmup_from": 0.25} if warmup else {}
    train |= {"final_share": final} if schedule != "constant" else {}
    train |= {"decay_share": 0.25} if schedule == "wsd" else {}
    _, memory = trained(algorithm={"interval": 1}, steps=steps, schedule=schedule, **train)
    for line in memory.lines:
        assert line["lr"] == pytest.approx(other.param_groups[0]["lr"], rel=1e-9), line["step"]
        assert line["gamma"] == pytest.approx(line["lr"] / 2, rel=1e-12)
        other.step()
        theirs.step()


def test_a_curve_over_epochs_and_its_warm_up():
    # 12 batches an epoch
    train = {"steps": None, "epochs": 4, "schedule": "cosine", "warmup_epochs": 1, "final_share": 0.5}
    _, memory = trained(algorithm={"interval": 1}, evaluate_every_steps=None, **train)
    lrs = [line["lr"] for line in memory.lines]
    assert len(lrs) == 48 and lrs[0] == pytest.approx(0.02) and lrs[6] == pytest.approx(0.2 * (0.1 + 0.9 / 2))
    assert lrs[12] == pytest.approx(0.2) and lrs[30] == pytest.approx(0.2 * 0.75)


def test_gamma_stays_where_it_does_not_follow():
    _, memory = trained(algorithm={"gamma_follows_lr": False}, warmup_epochs=2)
    assert [line["gamma"] for line in memory.lines] == pytest.approx([0.1] * 3)
    assert memory.lines[0]["lr"] < memory.lines[-1]["lr"] < 0.2


# loss and metrics


def test_label_smoothing_is_torchs_and_evaluations_are_without():
    trainer = job(label_smoothing=0.3)
    batch = trainer.stream.take()
    logits = trainer.model(batch.inputs)
    objective, loss = trainer.task.loss(trainer.model, batch)
    assert objective == loss == functional.cross_entropy(logits, batch.targets, label_smoothing=0.3)
    trainer.model.eval()
    found = trainer.task.evaluate(trainer.model, "test")
    test = trainer.task.data["test"]
    logits = trainer.model(test.rows(torch.arange(40)))
    assert found.loss == pytest.approx(functional.cross_entropy(logits, test.labels, reduction="sum").item(), rel=1e-5)
    assert found.metrics[0] == (logits.argmax(dim=1) == test.labels).sum()
    ranks_of_right = (logits > logits.gather(1, test.labels[:, None])).sum(dim=1)
    assert found.metrics[1] == (ranks_of_right < 5).sum() > found.metrics[0]


def test_top_5_is_in_the_evaluations_of_more_than_five_classes(tmp_path):
    sizes = "data={name: synthetic, samples: 64, side: 4, classes: %d}"
    for classes, there in ((5, False), (6, True)):
        run = tmp_path / str(classes)
        command = ["train", "configs/mnist_cnn.yaml", sizes % classes, "model=mlp", "train.epochs=1"]
        done = CliRunner().invoke(main, [*command, "train.milestones=[]", "--run-dir", str(run)])
        assert done.exit_code == 0, done.output
        row = json.loads((run / "evals.jsonl").read_text().splitlines()[-1])
        assert ("top5_accuracy" in row) == there == ("top 5" in done.output)


# pieces


def test_pieces_of_a_batch_add_up_to_its_gradient():
    """To rounding; 3 pieces of 8 samples are unequal."""
    whole, memory = trained()
    for accumulate in (2, 3, 8):
        cut, its = trained(accumulate=accumulate)
        assert torch.allclose(parameters(cut), parameters(whole), rtol=1e-5, atol=1e-7)
        for line, other in zip(its.lines, memory.lines, strict=True):
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-5) and line["samples"] == other["samples"]


# weight decay


def test_weight_decay_on_weights_leaves_norms_and_biases_alone():
    torch.manual_seed(1)
    start = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    def after_three_steps(model, **settings):
        method = hvdclip.optimizer("celgc", lr=0.3, gamma=0.1, momentum=0.5, interval=2, **settings)
        torch.manual_seed(2)
        for _ in range(3):
            method.zero_grad()
            model(torch.randn(5, 4)).square().sum().backward()
            method.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    ours, theirs = copy.deepcopy(start), copy.deepcopy(start)
    found = after_three_steps(ours, model_or_params=ours, weight_decay=0.2, weight_decay_on="weights")
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() == 2], "weight_decay": 0.2},
        {"params": [p for p in theirs.parameters() if p.dim() == 1]},
    ]
    expected = after_three_steps(theirs, model_or_params=groups)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="weight_decay_on is 'weights'; allowed: all; or pass a module"):
        after_three_steps(theirs, model_or_params=list(theirs.parameters()), weight_decay_on="weights")


# numbers


def test_bf16_clips_as_the_float32_gradients_would():
    """At each step of a bf16 run the float32 gradient at the same point, and whether it is clipped."""
    rule = {"gamma": 0.12, "interval": 1}
    trainer = job(model="cnn", data={"batch": 16, "samples": 600}, precision="bf16", steps=30, algorithm=rule)
    threshold, decided = 0.12 / 0.2, []
    trainer.model.eval()  # no dropout, which would be drawn twice
    weights = list(trainer.model.parameters())
    for step in range(30):
        batch = next(trainer.task.batches(0, step))
        norm = _norm(torch.autograd.grad(trainer.task.loss(trainer.model, batch)[0], weights))
        trainer.step()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in weights), "master weights"
        found = trainer.optimizer.last_round
        assert found["grad_norm"] == pytest.approx(norm, rel=0.02) and found["grad_norm"] != norm
        if abs(norm / threshold - 1) > 0.02:
            assert found["clip_fraction"] == (norm > threshold)
            decided.append(norm > threshold)
    assert len(decided) > 20 and 4 < sum(decided) < len(decided) - 4, "many are clipped, and many are not"


def _norm(gradient):
    return torch.linalg.vector_norm(torch.stack([g.norm() for g in gradient])).item()


def test_fp16_unscales_before_the_clip_and_counts_overflows():
    """On the CPU, in whose fp16 a scale of 2^16 overflows in none of these steps, and one of 2^40 in the first ones."""
    plain, lines = trained(model="cnn")
    half, its = trained(model="cnn", precision="fp16")
    assert torch.allclose(parameters(half), parameters(plain), rtol=0.05, atol=2e-3)
    for line, other in zip(its.lines, lines.lines, strict=True):
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=0.05)
        assert line["clip_fraction"] == other["clip_fraction"] and line["skipped"] == 0
    trainer, memory = job(model="cnn", precision="fp16"), Memory()
    trainer.precision.scaler._init_scale = 2.0**40
    trainer.train(memory, Silent())
    assert sum(line["skipped"] for line in memory.lines) == 6 and trainer.precision.scaler.get_scale() == 2.0**34


def test_a_loss_that_is_not_finite_is_no_overflow():
    """No lower scale would mend it; a gradient that is not finite beside a finite loss is."""
    trainer = job(model="cnn", precision="fp16", steps=40, algorithm={"lr": 1e6, "gamma": 1e6})
    with pytest.raises(NonFiniteGradient, match=r"is not finite on rank 0 at step \d"):
        trainer.train(Memory(), Silent())


def test_fp16_is_refused_where_the_scaler_cannot_work():
    with pytest.raises(
        ValueError, match=r"train.precision is fp16; allowed with episode: fp32, bf16, since it needs more"
    ):
        job(algorithm={"name": "episode"}, precision="fp16")
    bucket = {"algorithm": {"name": "bucket_clip", "lr": 0.1, "gamma": 0.1}, "model": "mlp", "data": DATA}
    with pytest.raises(
        ConfigError, match=r"train.precision is fp16; allowed with bucket_clip: fp32, bf16, since it clips"
    ):
        check(bucket | {"train": {"steps": 2, "precision": "fp16"}})
    with pytest.raises(ConfigError, match=r"train.accumulate is 2; allowed with bucket_clip: 1"):
        check(bucket | {"train": {"steps": 2, "accumulate": 2}})


def test_an_evaluation_by_command_is_in_the_same_numbers(tmp_path):
    run = str(tmp_path / "run")
    data = "data={name: synthetic, samples: 64, test_samples: 40, side: 8, classes: 7, batch: 8}"
    command = ["train", "configs/mnist_cnn.yaml", data, "train.epochs=1", "train.milestones=[]", "train.precision=bf16"]
    assert CliRunner().invoke(main, [*command, "--run-dir", run]).exit_code == 0
    row = json.loads((tmp_path / "run/evals.jsonl").read_text().splitlines()[-1])
    said = CliRunner().invoke(main, ["eval", run]).output
    assert f"loss {row['loss']:.6g}  accuracy {row['accuracy']:.6g}" in said


def test_a_checkpoint_from_before_these_settings_is_gone_on_from(tmp_path):
    """It knows of no scaler, and its configuration not of them."""
    run = tmp_path / "run"
    command = ["train", "configs/quadratics.yaml", "train.steps=40", "checkpoint.every_steps=20", "--run-dir", str(run)]
    assert CliRunner().invoke(main, command).exit_code == 0
    whole = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    folder = RunDirectory(run).checkpoints.folder(20)
    state = torch.load(folder / "rank-00000.pt", weights_only=True)
    del state["scaler"]
    torch.save(state, folder / "rank-00000.pt")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for name in ("precision", "accumulate", "warmup_epochs", "compile"):
        del config["train"][name]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = RunDirectory(run).checkpoints.manifest(20)
    for name in ("rank-00000.pt", "config.yaml"):
        content = (folder / name).read_bytes()
        manifest.files[name] = (len(content), hashlib.sha256(content).hexdigest())
    manifest.write(folder)
    resumed = CliRunner().invoke(main, [*command, "--resume"])
    assert resumed.exit_code == 0 and "continues from step 20" in resumed.output, resumed.output
    assert json.loads((run / "summary.json").read_text())["model_sha256"] == whole["model_sha256"]


def test_more_ranks_than_samples_to_evaluate():
    def one(comm):
        trainer, memory = job(data={"test_samples": 2}, comm=comm), Memory()
        trainer.train(memory, Silent())
        return memory.rows[-1]["loss"], trainer.model, trainer.task.data["test"]

    (loss, model, test), *_ = hvdclip.simulate(one, 4)
    expected = functional.cross_entropy(model.eval()(test.rows(torch.arange(2))), test.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


# what torch's library for CPUs then takes this processor for
OLD_PROCESSOR = """
import sys
from hvdclip.comm import SingleRank
from hvdclip.config import check
from hvdclip.training.job import Job
for model in ("lstm", "awd_lstm"):
    config = {"algorithm": {"name": "celgc", "lr": 0.1, "gamma": 0.1}, "model": model,
              "data": {"name": "stdlib", "batch": 2}, "train": {"steps": 1, "precision": sys.argv[1]}}
    try:
        Job(check(config), SingleRank())
        print("fine")
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_processor_that_computes_no_lstm_in_bf16_is_told_before_the_first_step(precision):
    command = [sys.executable, "-c", OLD_PROCESSOR, precision]
    done = subprocess.run(command, env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True)
    said = f"train.precision is 'bf16', but torch {torch.__version__} cannot compute an LSTM in it on this processor; "
    said += "allowed here: fp32, or a GPU"
    assert done.stdout.splitlines() == [said if precision == "bf16" else "fine"] * 2, done.stderr


def test_language_models_compute_in_bf16_too():
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(1, 1)(torch.ones(1, 1, 1))
    except RuntimeError as error:
        pytest.skip(f"this processor computes no LSTM in bf16 ({str(error)[:40]})")
    config = {
        "algorithm": CELGC,
        "model": {"name": "awd_lstm", "embedding": 8, "hidden": 12, "layers": 2},
        "data": {"name": "stdlib", "batch": 2, "bptt": 8, "evaluation_columns": 2000},
    }
    losses = []
    for precision in ("fp32", "bf16"):
        memory = Memory()
        train = {"steps": 6, "precision": precision}
        Trainer(Job(check(config | {"train": train}), SingleRank())).train(memory, Silent())
        losses.append([line["loss"] for line in memory.lines])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("train", [{"precision": "fp16"}, {"precision": "bf16", "accumulate": 2, "warmup_epochs": 3}])
def test_a_run_in_halves_and_pieces_goes_on_to_the_bit(train):
    config = {
        "algorithm": CELGC,
        "model": "cnn",
        "data": DATA,
        "train": {"steps": 27, "evaluate_every_steps": 9} | train,
    }
    check_round_trip(config)


# memory format, compiler


@pytest.mark.parametrize("algorithm", [{}, {"momentum": 0.9, "weight_decay": 0.01}, {"compression": "int8"}])
def test_channels_last_is_another_order_in_memory_only(algorithm):
    plain, lines = trained(model={"name": "resnet", "depth": 8}, algorithm=algorithm)
    last, its = trained(model={"name": "resnet", "depth": 8}, algorithm=algorithm, channels_last=True)
    weight = last.model.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert weight.grad.stride() == weight.stride()
    near = {"rtol": 1e-3, "atol": 1e-4} if algorithm != {"compression": "int8"} else {"rtol": 0.1, "atol": 1e-2}
    assert torch.allclose(parameters(last), parameters(plain), **near)
    for line, other in zip(its.lines, lines.lines, strict=True):
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)


def test_a_step_in_channels_last_is_exact():
    """From equal gradients, which autograd would round differently in another order."""
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 3)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    settings = {"lr": 0.1, "gamma": 0.05, "momentum": 0.9, "weight_decay": 0.1, "interval": 2}
    methods = [hvdclip.optimizer("celgc", model, **settings) for model in (plain, last)]
    for _ in range(3):
        for p, q in zip(plain.parameters(), last.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()  # not channels last: it is brought into x's order
        for method in methods:
            method.step()
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=0)


def test_a_state_in_another_order_in_memory_is_refused():
    plain, last = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    settings = {"lr": 0.1, "gamma": 0.1, "momentum": 0.9}
    state = hvdclip.optimizer("celgc", plain, **settings).state_dict()
    with pytest.raises(
        ValueError, match=r"of 140 parameters, .* of 140 parameters \(1 of their tensors channels last\)"
    ):
        hvdclip.optimizer("celgc", last, **settings).load_state_dict(state)


@pytest.mark.slow
def test_a_compiled_model_is_the_same_model():
    plain, _ = trained(model={"name": "mlp", "hidden": [8]})
    compiled, _ = trained(model={"name": "mlp", "hidden": [8]}, compile=True)
    assert compiled.model._compiled_call_impl is not None
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert torch.allclose(parameters(compiled), parameters(plain), rtol=1e-5, atol=1e-6)


# batch norm over all ranks


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_ranks_is_that_of_one_rank_with_all_samples(momentum):
    """Outputs, gradients (averaged, as methods do) and running statistics, from unequal shares of the samples."""
    torch.manual_seed(3)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    nn.init.normal_(plain[1].weight)
    images, targets = torch.randn(9, 3, 6, 6) + 5, torch.randint(2, (9,))
    shares = [slice(0, 2), slice(2, 9)]

    def one(comm):
        model = synchronised(copy.deepcopy(plain), comm)
        losses = []
        for _ in range(2):
            model.zero_grad()
            share = shares[comm.rank]
            loss = functional.cross_entropy(model(images[share]), targets[share], reduction="sum")
            loss.backward()
            losses.append(loss.item())
        return losses, [p.grad for p in model.parameters()], dict(model.named_buffers())

    found = hvdclip.simulate(one, 2)
    for _ in range(2):
        plain.zero_grad()
        loss = functional.cross_entropy(plain(images), targets, reduction="sum")
        loss.backward()
    assert sum(losses[-1] for losses, _, _ in found) == pytest.approx(loss.item(), rel=1e-5)
    for p, *grads in zip(plain.parameters(), *(grads for _, grads, _ in found), strict=True):
        assert torch.allclose(sum(grads), p.grad, rtol=1e-4, atol=1e-5)
    for name, buffer in plain.named_buffers():
        assert all(torch.allclose(buffers[name], buffer, rtol=1e-5, atol=1e-6) for _, _, buffers in found)


def test_batch_norm_over_ranks_keeps_what_the_layer_was():
    norm = nn.BatchNorm1d(4, dtype=torch.float64)
    norm.weight.requires_grad = False
    model = nn.Sequential(norm, nn.Linear(4, 4, dtype=torch.float64), norm)
    made = synchronised(copy.deepcopy(model), SingleRank())
    assert made[0] is made[2] and made[0].weight.dtype == torch.float64 and not made[0].weight.requires_grad
    rows = torch.randn(6, 4, dtype=torch.float64)
    assert torch.allclose(made(rows), model(rows), rtol=1e-12)
    assert torch.allclose(made[0].running_var, model[0].running_var, rtol=1e-12)


def test_batch_norm_over_ranks_is_refused_where_there_is_none_or_ranks_differ():
    with pytest.raises(
        ValueError, match=r"train.sync_batch_norm is True, but the model has no batch norm; allowed: False"
    ):
        job(sync_batch_norm=True)
    with pytest.raises(ValueError, match=r"train.sync_batch_norm is True; allowed with episode: False"):
        job(model={"name": "resnet", "depth": 8}, algorithm={"name": "episode"}, sync_batch_norm=True)


# what is refused before anything starts


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": {"label_smoothing": 1.0}}, "train.label_smoothing is 1.0; allowed: less than 1"),
        ({"train": {"warmup_from": 0}}, "train.warmup_from is 0; allowed: greater than 0"),
        ({"train": {"precision": "fp8"}}, "train.precision is 'fp8'; allowed: 'fp32', 'bf16' or 'fp16'"),
        ({"train": {"accumulate": 0}}, "train.accumulate is 0; allowed: greater than or equal to 1"),
        (
            {"train": {"loss": "mse_loss", "label_smoothing": 0.1}},
            "train: label_smoothing is 0.1 with loss mse_loss; allowed: 0",
        ),
        (
            {"data": {"workers": 2, "on_device": True}},
            "data: workers is 2 with on_device; allowed: 0, since all samples are in memory",
        ),
        (
            {"data": "stdlib", "model": "lstm", "train": {"accumulate": 2}},
            "train.accumulate is 2; allowed with data stdlib: 1",
        ),
        ({"train": {"accumulate": 9}}, "train.accumulate is 9; allowed: up to data.batch, 8"),
        (
            {"train": {"warmup_from": 0.5}},
            "train: warmup_from is 0.5, but warmup_steps and warmup_",
        ),
        (
            {"train": {"schedule": "poly"}},
            "train.schedule is 'poly'; allowed: 'step', 'constant', 'cosine', ",
        ),
        (
            {"train": {"schedule": "cosine", "milestones": [2]}},
            "train: milestones is [2] with schedule cosine; allowed with step",
        ),
        (
            {"train": {"final_share": 0.1}},
            "train: final_share is 0.1 with schedule step; allowed with cosine, linear, wsd",
        ),
        (
            {"train": {"schedule": "linear", "warmup_epochs": 1}},
            "train: warmup_epochs is 1 with schedule linear; allowed: warmup_steps, since the run is given in steps",
        ),
        (
            {"train": {"schedule": "cosine", "warmup_steps": 4}},
            "train: warmup_steps is 4 with schedule cosine; allowed: below steps, 4",
        ),
        (
            {"train": {"schedule": "wsd", "decay_share": 0.9, "warmup_steps": 1}},
            "train: decay_share is 0.9; allowed: up to 0.75, what the warm-up leaves",
        ),
        ({"train": {"warmup_steps": 1, "warmup_epochs": 1}}, "train: warmup_steps is 1 and warmup_epochs 1; give one"),
        (
            {"data": "quadratics", "model": "point", "train": {"compile": True}},
            "train.compile is True; allowed with data quadratics: False",
        ),
        (
            {"data": "quadratics", "model": "point", "algorithm": CELGC | {"weight_decay_on": "weights"}},
            "algorithm.weight_decay_on is weights; allowed with data quadratics: all",
        ),
        ({"model": {"name": "resnet", "depth": 9}}, "model.depth is 9; allowed: 6n + 2"),
        ({"model": "resnet50x"}, "model.name is 'resnet50x'; allowed: awd_lstm, "),
        ({"model": {"name": "resnet50", "depth": 3}}, "model.depth: unknown setting"),
        ({"data": "stdlib", "model": "resnet50"}, "model.name is 'resnet50'; allowed with data stdlib: awd_lstm, gpt"),
        (
            {"model": "lstm"},
            "model.name is 'lstm'; allowed with data synthetic: cnn, mlp, resnet, a classifier of torchvision",
        ),
    ],
)
def test_wrong_settings_are_one_line(changed, message):
    config = {"algorithm": CELGC, "model": "mlp", "data": dict(DATA), "train": {"steps": 4}}
    for section, value in changed.items():
        config[section] = config[section] | value if isinstance(value, dict) and section in ("train", "data") else value
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "alexnet"},
            r"model.name is 'alexnet'; allowed: a model that can train on 8 samples of shape",
        ),
        (
            {"model": "resnet18", "data": {"side": 32}, "accumulate": 8},
            r"model.name is 'resnet18'; allowed: a model that can train on 1 samples of shape .*Expected more than 1",
        ),
        ({"channels_last": True}, "train.channels_last is True, but the model has no convolutions of images"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        job(**settings)
    assert "\n" not in str(caught.value)


def test_what_is_not_all_in_memory_cannot_be_kept_on_a_device(tmp_path):
    import digits

    digits.write_folder(tmp_path)
    data = {"name": "image_folder", "root": str(tmp_path), "side": 8, "on_device": True, "batch": 2}
    config = {"algorithm": CELGC, "model": "mlp", "data": data, "train": {"steps": 4}}
    with pytest.raises(ValueError, match=r"data.on_device is True with image_folder; allowed: False"):
        Job(check(config), SingleRank())
    kept, memory = trained(data={"on_device": True})
    plain, lines = trained()
    assert torch.equal(parameters(kept), parameters(plain)) and memory.rows == lines.rows


def test_a_small_cnn_takes_images_that_are_not_square():
    assert CNN((2, 10, 17), 3)(torch.rand(2, 2, 10, 17)).shape == (2, 3)
