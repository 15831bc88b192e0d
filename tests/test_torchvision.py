"""torchvision can be imported beside a torch without CUDA, before hvdclip and after it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import hvdclip.torchvision_import

FILE = Path(hvdclip.torchvision_import.__file__)
SET_UP = importlib.util.find_spec("_hvdclip_torchvision_import")


def python(source: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", source], capture_output=True, text=True)
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
