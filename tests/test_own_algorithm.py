"""docs/own_algorithm.md, taken at its word."""

import re
import sys
from pathlib import Path

import pytest
import torch
from launch import run_ranks
from torch import nn

import hvdclip
from hvdclip.methods import METHODS, LocalMethod
from hvdclip.training.rundir import RunDirectory

GUIDE = (Path(__file__).parent.parent / "docs/own_algorithm.md").read_text()
MODULE, LOOP = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
CONFIG = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[1]
HVDCLIP = str(Path(sys.executable).parent / "hvdclip")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_methods.py").write_text(MODULE)
    (tmp_path / "job.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def registered(own_methods):
    exec(MODULE, {"__name__": "my_methods"})


def test_in_a_training_loop(registered):
    def one(comm):
        model = nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.copy_(torch.ones(1, 3))
        optimizer = hvdclip.optimizer("local_sign", model, comm=comm, lr=0.01, interval=2)
        for sign in (1.0, -1.0 if comm.rank else 1.0):
            model.weight.grad, model.bias.grad = torch.full((1, 3), sign), torch.zeros(1)
            optimizer.step()
        return model.weight.detach().tolist()

    # rank 0 moves by -0.01 twice; on rank 1 the momentum is 0.09 - 0.1 < 0 after the second gradient
    expected = [[pytest.approx(1 - 0.02 / 2)] * 3]
    assert hvdclip.simulate(one, 2) == [expected, expected]
    assert "local_sign" in [row["name"] for row in hvdclip.algorithms()]
    exec(LOOP, {"hvdclip": hvdclip, "model": nn.Linear(2, 1)})


@pytest.mark.ranks
def test_from_yaml_on_real_ranks_and_simulated(folder):
    run_ranks([HVDCLIP, "train", "job.yaml", "--run-dir", "run"], 2, cwd=folder)
    summary = RunDirectory(folder / "run").summary()
    assert summary["algorithm"] == "local_sign" and summary["final"]["exact"]["loss"] < -8
    again = run_ranks([HVDCLIP, "eval", "run"], 1, "alone", cwd=folder)
    assert f"{summary['final']['exact']['loss']:.6g}" in again.stdout
    done = run_ranks([HVDCLIP, "simulate", "job.yaml", "--ranks", "2,4", "--out", "pictures"], 1, "alone", cwd=folder)
    loss = float(re.search(r"^ +2 .*", done.stdout, re.MULTILINE)[0].split()[4])
    assert loss == pytest.approx(summary["final"]["exact"]["loss"], rel=1e-5)
    assert (folder / "pictures/simulation.png").exists()


def test_what_is_no_method_is_refused():
    class Nameless(LocalMethod):
        formula = paper = message_size = memory = "none"

    with pytest.raises(TypeError, match="Nameless is not a complete method: it lacks name, Settings"):
        hvdclip.register(Nameless)

    class Celgc(METHODS["celgc"]):
        pass

    with pytest.raises(ValueError, match="the name 'celgc' is taken by CELGC"):
        hvdclip.register(Celgc)
    assert METHODS["celgc"].__name__ == "CELGC"
