"""hvdclip's types, as mypy and editors read them from its stub."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hvdclip

PROJECT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/own_loop.md", "docs/own_algorithm.md")
SCRIPTS = [re.search(r"```python\n(.*?)```", (PROJECT / page).read_text(), re.DOTALL)[1] for page in PAGES]

RIGHT = f"""
from typing import Any

import torch
from typing_extensions import assert_type

import hvdclip
from hvdclip import {", ".join(hvdclip.__all__)}
from hvdclip.methods import Method

model = torch.nn.Linear(2, 1)
celgc = optimizer("celgc", model, lr=1, gamma=0.1, interval={{0: 1, 10: 8}}, overlap="delayed")
assert_type(celgc, Method)
optimizer("celgc", model.parameters(), lr=0.1, gamma=0.1, inner=torch.optim.AdamW, interval="auto")
optimizer("celgc", list(model.parameters()), lr=0.1, max_norm=1.0, inner="AdamW")
optimizer("celgc", model.named_parameters(), lr=0.1, max_norm=1.0, inner={{"name": "AdamW", "eps": 1e-6}})
optimizer("celgc", model, lr=0.1, gamma=0.1, inner=torch.optim.SGD(model.parameters(), lr=0.1))
groups = [{{"params": list(model.parameters()), "lr": 0.2}}]
optimizer("sketched", groups, lr=0.1, gamma=1.0, width=8, server_lr=0.1)
optimizer("sgdol", model, interval=8)

loss = model(torch.ones(3, 2)).sum()
celgc.record(loss=loss, samples=3)
celgc.step()
with celgc.averaged():
    pass
celgc.synchronize()
assert_type(celgc.last_round, dict[str, Any])
torch.optim.lr_scheduler.StepLR(celgc, 10)


def train(comm: Communicator) -> float:
    optimizer("local_sgd", model, lr=0.1, comm=comm)
    return 0.5


assert_type(simulate(train, ranks=2), list[float])
assert_type(algorithms(), list[dict[str, str]])
assert_type(hvdclip.__version__, str)
assert_type(hvdclip.methods.optimizer("my_own", model, lr=0.1, mine=3), Method)
"""

WRONG = [
    'hvdclip.optimizer("celgc", model, lr=0.1, gama=0.1)',
    'hvdclip.optimizer("celgc", model, gamma=0.1)',
    'hvdclip.optimizer("celgc", model, lr="0.1", gamma=0.1)',
    'hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval="often")',
    'hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, compression="zip")',
    'hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, inner=3)',
    'hvdclip.optimizer("cellgc", model, lr=0.1, gamma=0.1)',
    'hvdclip.optimizer("local_sgd", model, lr=0.1, gamma=0.1)',
    'hvdclip.optimizer("sketched", model, lr=0.1, gamma=0.1, width=3)',
    'hvdclip.optimizer("celgc", 3, lr=0.1, gamma=0.1)',
    'hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1).last_rnd',
    "hvdclip.optimise",
]
BEFORE = ["import torch", "import hvdclip", "model = torch.nn.Linear(2, 1)"]


def mypy(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_stub_is_that_of_the_code(tmp_path):
    file = tmp_path / "stub.pyi"
    subprocess.run([sys.executable, "jobs/stub.py", str(file)], cwd=PROJECT, check=True, timeout=60)
    assert file.read_text() == (PROJECT / "hvdclip/__init__.pyi").read_text(), "run python jobs/stub.py"


@pytest.mark.slow
def test_mypy_accepts_what_is_right_and_refuses_the_rest(tmp_path):
    """In one run, since most of it goes by in reading torch."""
    right = dict(zip(("right", "readme", "own_loop", "own_algorithm"), [RIGHT, *SCRIPTS], strict=True))
    for name, text in (right | {"wrong": "\n".join([*BEFORE, *WRONG])}).items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {PROJECT}\nignore_missing_imports = True\n")
    done = mypy("--check-untyped-defs", ".", cwd=tmp_path)
    errors = re.findall(r"^(\S+)\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert [error for error in errors if error[0] != "wrong"] == [], done.stderr
    refused = {int(line) - len(BEFORE) - 1 for _, line, _ in errors}
    assert [line for number, line in enumerate(WRONG) if number not in refused] == [], "mypy accepts these"
    assert errors[0][2].startswith('Unexpected keyword argument "gama"'), "the first of them says what is wrong"


@pytest.mark.slow
def test_mypy_accepts_the_project():
    done = mypy(cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


def built(hook, source, folder):
    """What setuptools builds of the source, as an open archive."""
    script = f"from setuptools.build_meta import {hook}; print({hook}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / done.stdout.split()[-1])


@pytest.mark.slow
def test_it_is_installed(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(PROJECT / "hvdclip", source / "hvdclip", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    assert {"hvdclip/py.typed", "hvdclip/__init__.pyi"} <= set(built("build_wheel", source, tmp_path).namelist())
    editable = built("build_editable", source, tmp_path)
    path = next(name for name in editable.namelist() if name.endswith(".pth"))
    assert editable.read(path).decode().strip() == str(source), "mypy and editors follow a path, but no import hook"


def beside_a_clone(folder, site):
    """A Python that has only what is in `site` and what runs these tests, and a folder in which a clone lies."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=60)
    packages = next((folder / "venv/lib").iterdir()) / "site-packages"
    shutil.copytree(site, packages, dirs_exist_ok=True)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "zz_of_the_tests.pth").write_text("\n".join(here) + "\n")
    place = folder / "working"
    shutil.copytree(PROJECT / "hvdclip", place / "hvdclip/hvdclip", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "script.py").write_text("import hvdclip\nprint(hvdclip.optimizer.__name__, hvdclip.__file__)\n")
    return folder / "venv/bin/python", place


@pytest.mark.slow
def test_a_clone_in_the_working_folder_does_not_hide_the_package(tmp_path):
    """Its folder has the package's name, and for a finder of setuptools' it would come first."""
    source = tmp_path / "source"
    shutil.copytree(PROJECT / "hvdclip", source / "hvdclip", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    built("build_editable", source, tmp_path).extractall(tmp_path / "site")
    python, place = beside_a_clone(tmp_path, tmp_path / "site")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for arguments in (["script.py"], ["-c", (place / "script.py").read_text()], ["-m", "hvdclip", "--version"]):
        done = subprocess.run(
            [python, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        assert f"optimizer {source}/hvdclip/__init__.py" in done.stdout or "version 0.1.0" in done.stdout
