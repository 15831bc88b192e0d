"""Other training libraries drive hvdclip's optimizer as docs/clients.md says: its blocks are run on two real ranks.

A block is run to the end; in another folder to the half, and from there, by the library's own checkpoint, to the end.
"""

import importlib.util
import json
import re

import pytest
import torch
from conftest import PROJECT
from launch import python_ranks

import hvdclip

# title, text, title, text, ...; a comment in a block is no title
SECTIONS = re.split(r"^#+ (.*)\n\n", (PROJECT / "docs/clients.md").read_text(), flags=re.MULTILINE)[1:]
BLOCKS = {
    title: re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    for title, text in zip(SECTIONS[::2], SECTIONS[1::2], strict=True)
}
COMMON = BLOCKS.pop("Inside other training libraries")
MPIRUNS_VARIABLES = re.search(r"^for name in list\(os.environ\).*?\n\n", COMMON, re.MULTILINE | re.DOTALL)[0]
# "the same, with another module"
LIGHTNING = BLOCKS["Lightning"].replace("optimizer = fit(Module())\n", "")
BLOCKS["Manual optimization"] = LIGHTNING + BLOCKS["Manual optimization"]
PACKAGES = {
    "Lightning": ["lightning"],
    "Manual optimization": ["lightning"],
    "Fabric": ["lightning"],
    "Hugging Face Trainer": ["transformers", "accelerate"],
    "accelerate": ["accelerate"],
    "ignite": ["ignite"],
    "skorch": ["skorch"],
    "timm": ["timm"],
    "torchmetrics": ["torchmetrics"],
}
# the loss of the model in the end, and that of one that has learned nothing
REGRESSION = ("F.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))", 10)
LOSSES = {
    "Hugging Face Trainer": ("F.cross_entropy(model.eval()(ids).logits, ids[:, 0] % 2)", 0.69),
    "timm": ("F.cross_entropy(model.eval()(images), labels)", 0.69),
}
RUN = """
import json, os, sys
from pathlib import Path

import horovod.torch as hvd
import torch
import torch.nn.functional as F

def run(folder, epochs):
    code = {code!r}.replace("EPOCHS = 4", f"EPOCHS = {{epochs}}")
    names, before = {{"__name__": "__main__"}}, os.getcwd()
    Path(folder).mkdir(exist_ok=True)
    os.chdir(folder)
    exec(code, names)
    os.chdir(before)
    model, optimizer = names["model"], names["optimizer"]
    x = torch.cat([p.detach().flatten() for p in model.parameters()])
    alike = bool((hvd.allgather(x[None]) == x).all())
    loss = eval({loss!r}, names | {{"F": F}}).item()
    said.append({{"steps": optimizer.steps, "rounds": optimizer.rounds, "alike": alike, "loss": loss}})
    said[-1]["further"] = names["loss"].item() if "loss" in names else None
    return x

said = []
whole = run("whole", 4)
half = run("resumed", 2)
torch.manual_seed(99)
resumed = run("resumed", 4)
said.append([torch.equal(resumed, whole), torch.equal(half, whole)])
Path(f"rank{{hvd.rank()}}.json").write_text(json.dumps(said))
"""


def installed(title):
    lack = [package for package in PACKAGES[title] if importlib.util.find_spec(package) is None]
    if lack:
        pytest.skip(f"{', '.join(lack)} is not installed: pip install -e '.[clients]'")


def trained(title, folder, launcher="mpirun"):
    """What each of two ranks has to say of the runs: whole, half, resumed, and which of them are equal."""
    installed(title)
    loss, _ = LOSSES.get(title, REGRESSION)
    python_ranks(RUN.format(code=COMMON + BLOCKS[title], loss=loss), 2, launcher, timeout=240, cwd=folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in BLOCKS if title != "torchmetrics"])
def test_a_library_trains_and_resumes(title, tmp_path):
    """4 epochs of 16 steps, rounds of 6: the checkpoint after 2 epochs lies in the middle of a round."""
    _, at_first = LOSSES.get(title, REGRESSION)
    for whole, half, resumed, equal in trained(title, tmp_path):
        assert (whole["steps"], half["steps"], resumed["steps"]) == (64, 32, 64)
        assert (whole["rounds"], half["rounds"], resumed["rounds"]) == (11, 6, 11)  # the last one by synchronize()
        assert whole["alike"] and half["alike"] and resumed["alike"]
        assert whole["loss"] < at_first / 3
        assert equal == [True, False]


@pytest.mark.ranks
@pytest.mark.slow
def test_a_metric_is_that_of_all_ranks(tmp_path):
    one, other = trained("torchmetrics", tmp_path)
    assert one == other
    assert one[0]["further"] == pytest.approx(one[0]["loss"], rel=1e-5)  # of the same model on all of the data


@pytest.mark.slow
def test_accelerate_saves_every_parameter(tmp_path):
    """Each has a storage of its own, else safetensors would take them for tied weights and keep the first."""
    installed("accelerate")
    from accelerate import Accelerator
    from safetensors.torch import load_file

    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(model, hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.05))
    accelerator.save_state(str(tmp_path))
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


@pytest.mark.ranks
@pytest.mark.slow
def test_accelerate_needs_mpiruns_variables_gone(tmp_path):
    """What the page says of them; horovodrun's Gloo does not set any."""
    installed("accelerate")
    code = (COMMON + BLOCKS["accelerate"]).replace(MPIRUNS_VARIABLES, "")
    done = python_ranks(code, 2, cwd=tmp_path, check=False)
    assert done.returncode and "MASTER_ADDR" in done.stderr
    python_ranks(code, 2, "horovodrun-gloo", cwd=tmp_path)


def test_the_page_and_the_tests_name_the_same_libraries():
    assert set(BLOCKS) == set(PACKAGES)
    extra = re.search(r"^clients =\n((?: .*\n)*)", (PROJECT / "setup.cfg").read_text(), re.MULTILINE)[1]
    for package in {package for packages in PACKAGES.values() for package in packages}:
        assert re.search(rf"^ +(pytorch-)?{package}>=", extra, re.MULTILINE), package
