"""torchvision can be imported beside a torch without CUDA, before hvdclip and after it; most jobs do without it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import hvdclip as command
from conftest import PROJECT

import hvdclip.torchvision_import
from hvdclip.data.vision import torchvision
from hvdclip.models import torchvisions

FILE = Path(hvdclip.torchvision_import.__file__)
SET_UP = importlib.util.find_spec("_hvdclip_torchvision_import")


def python(source: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", source], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import hvdclip"])
def test_it_is_imported_and_works_but_for_its_own_operators(before):
    if not before and not SET_UP:
        pytest.skip("this Python was not set up by jobs/setup.sh")
    said = python(f"""{before}
import torch, torchvision
print(torchvision.models.get_model("resnet18", num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape)
try:
    print(torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5))
except RuntimeError as error:
    print(str(error)[:30])
""")
    # a torch with CUDA has the operators
    assert said in (f"torch.Size([1, 3])\n{end}\n" for end in ("Couldn't load custom C++ ops. ", "tensor([0])"))


def test_hvdclip_itself_does_not_import_it():
    assert python("import sys, hvdclip; print('torchvision' in sys.modules)") == "False\n"


@pytest.mark.parametrize("has_operators", [True, False])
def test_operators_are_declared_only_where_they_lack(has_operators, tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from . import extension, _meta_registrations")
    (package / "extension.py").write_text(f"def _has_ops(): return {has_operators}")
    (package / "_meta_registrations.py").write_text(
        "import torch\nprint([hasattr(torch.ops.torchvision, name) for name in ('nms', 'qnms')])"
    )
    said = python(f"import sys, hvdclip; sys.path.insert(0, {str(tmp_path)!r}); import torchvision")
    assert said == f"{[not has_operators] * 2}\n"


def test_what_each_start_of_python_pays_for_is_one_small_file():
    source = "import sys; before = set(sys.modules); exec(open(sys.argv[1]).read()); print(set(sys.modules) - before)"
    alone = [sys.executable, "-I", "-S", "-c", source, str(FILE)]
    assert subprocess.run(alone, capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.skipif(not SET_UP, reason="this Python was not set up by jobs/setup.sh")
def test_the_copy_in_the_environment_is_that_of_the_project():
    assert Path(SET_UP.origin).read_text() == FILE.read_text()


@pytest.fixture
def without_it(tmp_path, monkeypatch):
    """Other Pythons than this one find no torchvision."""
    (tmp_path / "torchvision.py").write_text("raise ModuleNotFoundError(\"No module named 'torchvision'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


OWN_LOOP = """
import hvdclip, torch
model = torch.nn.Linear(2, 1, bias=False)
torch.nn.init.zeros_(model.weight)
optimizer = hvdclip.optimizer("celgc", model, lr=0.5, gamma=0.1)
(model(torch.tensor([[3.0, 4.0]])) - 1).sum().backward()
optimizer.step()
print(*model.weight.tolist()[0])
"""


@pytest.mark.slow
def test_loops_and_texts_do_without_it(without_it):
    # the gradient (3, 4) of norm 5 is cut to gamma = 0.1
    first, second = map(float, python(OWN_LOOP).split())
    assert (first, second) == pytest.approx((-0.06, -0.08), abs=1e-6)
    run = without_it / "run"
    python(f"""
import sys, runpy
sys.argv = ["hvdclip", "train", "configs/quickstart.yaml",
            "train.steps=2", "--run-dir", {str(run)!r}]
runpy.run_module("hvdclip", run_name="__main__")
""")
    assert json.loads((run / "summary.json").read_text())["step"] == 2


WHAT_TO_DO = (
    r"torchvision cannot be imported \((No module named 'torchvision'|import of torchvision halted; None in "
    r"sys.modules)\): pip install 'torchvision==0\.\d+\.\*'"
)


@pytest.fixture
def hidden(monkeypatch):
    """This Python finds no torchvision either."""
    torchvision.cache_clear()
    torchvisions.names.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    yield
    torchvision.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "configs/cifar10_resnet32.yaml"], r"data\.name is 'cifar10', and "),
        (
            ["train", "configs/mnist_cnn.yaml", "data=synthetic", "model=resnet18"],
            r"model\.name is 'resnet18'; allowed: ",
        ),
        (["bench", "images"], ""),
        (["data", "cifar10"], ""),
    ],
)
def test_what_needs_it_says_in_a_line_what_to_install(hidden, arguments, said):
    done = command(*arguments, check=False)
    lines = [line for line in done.stderr.splitlines() if "torchvision" in line]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert re.search(said, lines[0]) and re.search(WHAT_TO_DO, lines[0]), lines
    minor = int(torch.__version__.split(".")[1])
    assert f"torchvision==0.{minor + 15}.*" in lines[0]
