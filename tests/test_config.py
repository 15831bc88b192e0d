"""The configuration: every mistake is told, on one line, before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import hvdclip
from hvdclip import config
from hvdclip.config import reading

GOOD = {
    "algorithm": {"name": "celgc", "lr": 1.0, "gamma": 0.5},
    "model": {"name": "lstm"},
    "data": {"name": "stdlib"},
    "train": {"steps": 10},
}
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def changed(**sections):
    return {name: dict(section) for name, section in GOOD.items()} | sections


def mistakes(raw):
    with pytest.raises(config.ConfigError) as error:
        config.check(raw)
    return str(error.value).splitlines()


def test_a_good_one_is_resolved_with_its_defaults():
    checked = config.check(changed())
    assert checked.resolved["algorithm"]["interval"] == 1 and checked.resolved["model"]["hidden"] == 256
    assert checked.resolved["train"]["seed"] == 1 and checked.resolved["data"]["bptt"] == 70
    assert config.check(checked.resolved).resolved == checked.resolved
    assert config.check(yaml.safe_load(yaml.safe_dump(checked.resolved))).resolved == checked.resolved


def test_the_papers_settings_are_the_models_defaults():
    awd = config.check(changed(model={"name": "awd_lstm"})).model
    assert (awd["embedding"], awd["hidden"], awd["layers"], awd["tied"]) == (400, 1150, 3, True)
    assert (awd["weight_drop"], awd["alpha"], awd["beta"]) == (0.5, 2.0, 1.0)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_configuration_that_comes_along_is_good(file):
    config.load(file)
    assert file.read_text().startswith("# "), "its first line says what it is"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"algorithm": {"name": "celgc", "lr": 1.0}}, "algorithm: exactly one of gamma and max_norm must be given"),
        ({"algorithm": {"name": "celg", "lr": 1.0}}, "algorithm.name is 'celg'; allowed: local_sgd, celgc, fedprox"),
        ({"algorithm": {"lr": 1.0}}, "algorithm.name is None; allowed: local_sgd, celgc"),
        (
            {"algorithm": {"name": "naive_parallel_clip", "lr": 1.0, "gamma": 1.0, "interval": 4}},
            "algorithm.interval: unknown setting; valid are lr, weight_decay (0.0)",
        ),
        ({"algorithm": {"name": "celgc", "lr": 0, "gamma": 1.0}}, "algorithm.lr is 0; allowed: greater than 0"),
        (
            {"algorithm": {"name": "celgc", "lr": 1.0, "gamma": 1.0, "weight": 2.0}},
            "algorithm.weight: set train.weighted instead",
        ),
        (
            {"model": {"name": "lstm", "hiden": 3}},
            "model.hiden: unknown setting; did you mean hidden? valid are embedd",
        ),
        ({"model": {"name": "lstm", "hidden": "big"}}, "model.hidden is 'big'; allowed: a valid integer"),
        (
            {"model": "transformer"},
            "model.name is 'transformer'; allowed: awd_lstm, lstm, gpt, cnn, mlp, resnet, cleaning, point, a "
            "classifier of torchvision (resnet50, ...) or my",
        ),
        ({"model": "no.such:thing"}, "model: 'no.such:thing' cannot be imported: No module named 'no'"),
        ({"model": 5}, "model is 5; allowed: a name, or name and settings"),
        ({"data": {"name": "stdlib", "bptt": 2}}, "data.bptt is 2; allowed: greater than or equal to 5"),
        ({"data": {"name": "ptb", "rot": "x"}}, "data.rot: unknown setting; did you mean root?"),
        ({"data": [1, 2]}, "data is [1, 2]; allowed: a name, or name and settings"),
        ({"data": {"name": [1, 2]}}, "data.name is [1, 2]; allowed: ptb,"),
        ({"model": {"name": [1, 2]}}, "model.name is [1, 2]; allowed: awd_lstm,"),
        ({"train": {}}, "train: exactly one of steps and epochs must be given"),
        ({"train": {"steps": 5, "epochs": 2}}, "train: exactly one of steps and epochs must be given"),
        ({"train": {"steps": -5}}, "train.steps is -5; allowed: greater than or equal to 1"),
        ({"train": {"steps": True}}, "train.steps is True; allowed: a valid integer"),
        ({"train": {"steps": 5, "loss": "no_loss"}}, "loss is 'no_loss'; allowed: torch.nn.functional's losses"),
        ({"train": {"steps": 5, "device": "tpu"}}, "train.device is 'tpu'; allowed: 'auto', 'cpu' or 'cuda'"),
        ({"train": [1]}, "train is [1]; allowed: settings, valid are steps (none)"),
        ({"log": {"drift": False}}, "log.drift: set algorithm.drift instead"),
        ({"logs": {}}, "logs: unknown section; valid are algorithm, model, data, train, checkpoint, log"),
    ],
)
def test_a_mistake_is_one_line_with_path_value_and_what_is_allowed(sections, said):
    found = mistakes(changed(**sections))
    assert len(found) == 1 and said in found[0], found


def test_every_mistake_is_reported():
    found = mistakes(
        {"algorithm": {"name": "celgc", "lr": -1, "gama": 2}, "model": "lstm", "train": {"step": 5}, "x": 1}
    )
    starts = [line.partition(" ")[0].rstrip(":") for line in found]
    assert starts == ["x", "data", "algorithm.lr", "algorithm.gama", "train.step"]


def test_overrides(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(GOOD | {"model": "lstm"}))
    checked = config.load(
        file, ["algorithm.lr=1e-4", "model.hidden=32", "algorithm.interval=4", "train.steps=null", "train.epochs=2"]
    )
    assert checked.algorithm["lr"] == 1e-4 and checked.model["hidden"] == 32 and checked.algorithm["interval"] == 4
    assert checked.train.steps is None and checked.train.epochs == 2
    switched = config.load(
        file, ["algorithm.interval=4", "algorithm.name=naive_parallel_clip", "algorithm.interval=null"]
    )
    assert "interval" not in switched.algorithm


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "'steps' is not an override"),
        ("=5", "is not an override"),
        ("train.steps.x=5", "steps has no settings inside it"),
        ("train.steps=[", "is not YAML"),
        ("train.steps=010", "train.steps: YAML reads 010 in base 8, as 8; allowed: decimal numbers"),
        ("train={steps: 1, steps: 2}", "train: steps is given twice, in line 1; allowed: once"),
    ],
)
def test_bad_overrides(tmp_path, override, said):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    with pytest.raises(config.ConfigError) as error:
        config.load(file, [override])
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("a: [", "is not YAML"),
        ("- 1", "has no sections"),
        ("", "has no sections"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("name: ü".encode("latin-1"), "is not YAML"),
        ("train: {steps: 1}\nmodel: lstm\ntrain: {steps: 2}", "train is given twice, in lines 1 and 3; allowed: once"),
        ("train:\n  steps: 1\n  seed: 2\n  steps: 3", "steps is given twice, in lines 2 and 4; allowed: once"),
        ("train: {steps: 010}", "line 1: YAML reads 010 in base 8, as 8; allowed: decimal numbers"),
        ("train:\n  steps: 1:30", "line 2: YAML reads 1:30 in base 60, as 90; allowed: decimal numbers"),
        ("train: {steps: -1:30.5}", "YAML reads -1:30.5 in base 60, as -90.5"),
    ],
)
def test_bad_files(tmp_path, content, said):
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(config.ConfigError) as error:
        config.load(file)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "algorithm: {name: celgc, lr: 1e-3, gamma: 2.5e+1, weight_decay: 1.2e-6}\nmodel: lstm\n"
        "data: stdlib\ntrain: {steps: 1}\n"
    )
    assert config.load(file).algorithm["weight_decay"] == 1.2e-6


def test_what_looks_like_a_misread_number_and_is_none(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("{a: 0, b: 0.5, c: 1_000, d: '010', e: 0x1f, f: -0, g: &g {x: 1}, h: {<<: *g, x: 2}, i: 00.5}")
    found = {"a": 0, "b": 0.5, "c": 1000, "d": "010", "e": 31, "f": 0, "g": {"x": 1}, "h": {"x": 2}, "i": 0.5}
    assert reading.read(file) == found


def test_a_file_is_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "c.yaml").write_text("a: ünï", encoding="utf-8")
    script = "from pathlib import Path; from hvdclip.config.reading import *; raw = read(Path('c.yaml'))"
    script += "; override(raw, sys.argv[1]); print(ascii(raw))"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", f"import sys; {script}", "b=ü".encode()]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'a': '\\xfcn\\xef', 'b': '\\xfc'}\n", done.stderr


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_what_is_set_inside_and_beside_must_be_equal(key):
    inner = {"name": "AdamW", key: 0.001}
    both = {"name": "celgc", "lr": 0.1, "gamma": 0.5, "weight_decay": 0.1, "inner": inner}
    said = f"algorithm: inner's {key} is 0.001, but {key} is 0.1; allowed: equal values, or only one of them"
    assert mistakes(changed(algorithm=both)) == [said]
    assert config.check(changed(algorithm=both | {key: 0.001})).algorithm[key] == 0.001


def test_the_weight_decay_of_an_inner_optimizer_holds():
    """Not the outer setting's default, 0."""
    algorithm = {"name": "celgc", "lr": 0.1, "gamma": 0.5, "inner": {"name": "AdamW", "weight_decay": 0.3}}
    checked = config.check(changed(algorithm=algorithm))
    assert config.check(checked.resolved).resolved == checked.resolved
    model = torch.nn.Linear(2, 1)
    optimizer = hvdclip.optimizer(model_or_params=model, **checked.algorithm)
    assert optimizer.optimizers["inner"].param_groups[0]["weight_decay"] == 0.3
