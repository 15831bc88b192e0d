"""Generated bad input: configurations, data files and checkpoints; each is refused in words, before anything starts."""

import copy
import json
import os
import random
import shutil
from pathlib import Path

import digits
import pytest
import torch
import yaml
from command import hvdclip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdclip.checkpoints.store import Store

CONFIGS = {file.stem: yaml.safe_load(file.read_text()) for file in Path("configs").glob("*.yaml")}
# What no setting of any section takes.
NEVER = (
    st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), min_size=1, max_size=2),
    st.just([[], {"": None}]),
    st.floats(-1e9, -1e-9).filter(lambda x: x != round(x)),
    st.sampled_from([float("nan"), float("-inf"), "", "nonsense", "0x1f", "1e", "None,", b"\x00".decode()]),
)


def refused(*arguments):
    """What the command says; it must end with status 2 and say all in lines of its own."""
    done = hvdclip(*arguments, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2, (arguments, done.returncode, said)
    lines = said.splitlines()
    assert lines and all(line.startswith("hvdclip: ") for line in lines), (arguments, said)
    assert not any("Traceback" in line for line in lines)
    return said


def generated(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# configurations


NEEDED = ("algorithm", "model", "data", "train")


@st.composite
def broken_configs(draw):
    """A shipped configuration with one thing wrong that no default mends."""
    config = copy.deepcopy(CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))])
    for section, value in config.items():
        if isinstance(value, str):
            config[section] = {"name": value}
    section = draw(st.sampled_from(sorted(config)))
    how = draw(st.sampled_from(["unknown key", "unknown section", "value", "section", "missing", "name"]))
    if how == "unknown key":
        config[section][draw(st.from_regex(r"[a-z]{1,4}_[a-z]{1,4}_q", fullmatch=True))] = draw(st.integers())
    elif how == "unknown section":
        config[draw(st.from_regex(r"[a-z]{3,9}_q", fullmatch=True))] = draw(st.none() | st.just({})) or {"x": 1}
    elif how == "value":
        config[section][draw(st.sampled_from(sorted(config[section])))] = draw(st.one_of(*NEVER))
    elif how == "section":
        # of the other sections all settings have defaults
        empty = [{}] if section in NEEDED else []
        config[section] = draw(st.sampled_from([3, [1, 2], "no such thing", True, 1.5, *empty]))
    elif how == "missing":
        del config[draw(st.sampled_from(NEEDED))]
    else:
        config[draw(st.sampled_from(["algorithm", "model", "data"]))]["name"] = draw(st.text(max_size=12))
    return config


@given(config=broken_configs())
@generated(150)
def test_broken_configurations(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    file = folder / "broken.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True))
    said = refused("train", file, "--run-dir", folder / "run")
    assert not (folder / "run").exists()
    assert len(said) < 2000 * len(said.splitlines())


@given(name=st.sampled_from(sorted(CONFIGS)), seed=st.integers(0, 2**32))
@generated(60)
def test_files_that_are_no_configuration(name, seed, tmp_path_factory):
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("config")
    text = yaml.safe_dump(CONFIGS[name]).encode()
    broken = [
        b"", b"\xff\xfe" + text, text.replace(b":", b"", 1), b"- " + text, text[: text.index(b"train")],
        draw.randbytes(200), text + b"\n\t: [", text.replace(b"algorithm:", b"algorithm: &a [*a"),
        b"!!python/object/apply:os.system ['touch " + bytes(folder / "pwned") + b"']",
    ]  # fmt: skip
    file = folder / "broken.yaml"
    file.write_bytes(draw.choice(broken))
    refused("train", file, "--run-dir", folder / "run")
    assert os.listdir(folder) == ["broken.yaml"]


def test_what_is_nested_too_deeply(tmp_path):
    (tmp_path / "deep.yaml").write_text("[" * 600)
    assert "deep.yaml is nested too deeply" in refused("train", tmp_path / "deep.yaml")
    assert "data: its value is nested too deeply" in refused("train", "configs/quickstart.yaml", "data=" + "[" * 600)


@given(
    override=st.sampled_from(sorted(CONFIGS)).flatmap(
        lambda name: st.text(max_size=20).filter(lambda text: "=" not in text and not text.startswith("-"))
    )
)
@generated(30)
def test_overrides_that_set_nothing(override, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    refused("train", "configs/quickstart.yaml", override, "--run-dir", folder / "run")
    assert not (folder / "run").exists()


# data files


def rows(root):
    (root / "libsvm").mkdir()
    (root / "libsvm/a9a").write_text("".join(f"{1 - 2 * (i % 2)} 1:{i}.5 3:1e-{i}\n" for i in range(40)))
    return root / "libsvm"


def words(root):
    (root / "wikitext-2").mkdir()
    for split in ("train", "valid", "test"):
        (root / f"wikitext-2/{split}.txt").write_text("the cat sat on the <unk> mat .\n" * 400)
    return root / "wikitext-2"


SMALL = {
    "mnist": (digits.write, ["model.hidden=[4]", "train.steps=2", "train.evaluate_every_steps=2"]),
    "a9a": (rows, ["train.steps=2", "train.evaluate_every_steps=2"]),
    "wikitext2": (
        words,
        [
            *("model.embedding=4", "model.hidden=4", "model.layers=1", "data.batch=2"),
            *("train.nt_asgd=null", "train.epochs=null", "train.steps=2"),
        ],
    ),
}


def broken(content, draw):
    """(what was done, the bytes): surely damaged, or perhaps."""
    place = draw.randrange(len(content))
    flipped = bytearray(content)
    flipped[place] ^= 1 << draw.randrange(8)
    return draw.choice(
        [
            ("cut", content[:place]),
            ("empty", b""),
            ("flipped", bytes(flipped)),
            ("noise", draw.randbytes(300)),
            ("longer", content + draw.randbytes(50)),
            ("zeros", bytes(len(content))),
        ]
    )


@pytest.mark.parametrize("name", SMALL)
def test_small_data_are_read(name, tmp_path):
    write, arguments = SMALL[name]
    write(tmp_path)
    hvdclip("train", f"configs/{name}.yaml", *arguments, f"data.root={tmp_path}", "--run-dir", tmp_path / "run")


@pytest.mark.parametrize("name", SMALL)
@given(seed=st.integers(0, 2**32))
@generated(40)
def test_broken_data(name, seed, tmp_path_factory):
    """What is damaged for sure is refused; a text or a pixel may be another one, and then training must go on."""
    root, draw = tmp_path_factory.mktemp("data"), random.Random(seed)
    write, arguments = SMALL[name]
    folder = write(root)
    file = folder / draw.choice(sorted(os.listdir(folder)))
    how, content = broken(file.read_bytes(), draw)
    file.write_bytes(content)
    run = root / "run"
    line = ["train", f"configs/{name}.yaml", *arguments, f"data.root={root}", "--run-dir", str(run)]
    done = hvdclip(*line, check=False)
    if done.returncode != 0 or how == "empty" or (name == "mnist" and how in ("cut", "noise", "zeros")):
        refused(*line)
        assert not run.exists()


# checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of two checkpoints that has been cut off."""
    run = tmp_path_factory.mktemp("saved") / "run"
    hvdclip("train", *QUADRATICS, "--run-dir", run)
    (run / "summary.json").unlink()
    return run


QUADRATICS = [
    *("configs/quadratics.yaml", "data.dimension=6", "train.steps=40", "train.evaluate_every_steps=20"),
    *("checkpoint.every_steps=16", "checkpoint.keep=2"),
]


def damage(run, draw):
    """Break one file or more of each checkpoint."""
    store = Store(run / "checkpoints")
    for step in store.steps():
        folder = store.folder(step)
        file = folder / draw.choice(["manifest.json", "model.pt", "rank-00000.pt", "config.yaml"])
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        manifest = json.loads((folder / "manifest.json").read_text())
        kind = draw.randrange(6)
        if kind == 0:
            file.unlink()
        elif kind == 1:
            file.write_bytes(content[: draw.randrange(len(content))])
        elif kind == 2:
            file.write_bytes(flipped)
        elif kind == 3:
            (folder / "manifest.json").write_text(json.dumps({"step": step}))
        elif kind == 4:
            manifest["files"] = {}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        else:
            torch.save({"x": object}, file) if file.suffix == ".pt" else file.write_bytes(draw.randbytes(40))


@given(seed=st.integers(0, 2**32))
@generated(60)
def test_broken_checkpoints(seed, saved, tmp_path_factory):
    run, draw = tmp_path_factory.mktemp("run") / "run", random.Random(seed)
    shutil.copytree(saved, run)
    damage(run, draw)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != "lock"}
    said = refused("train", *QUADRATICS, "--run-dir", run, "--resume")
    assert "is damaged: " in said and "has no complete checkpoint; --overwrite starts a new run" in said
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != "lock"} == before, "untouched"


@given(seed=st.integers(0, 2**32))
@generated(40)
def test_broken_models(seed, saved, tmp_path_factory):
    run, draw = tmp_path_factory.mktemp("run") / "run", random.Random(seed)
    shutil.copytree(saved, run)
    file = run / "checkpoints/final.pt"
    how, content = broken(file.read_bytes(), draw)
    if how in ("flipped", "longer"):  # torch's files have no sum over all: a number may be another one
        content = content[: len(content) // 2]
    file.write_bytes(content)
    assert str(file) in refused("eval", file)
