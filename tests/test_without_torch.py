"""On a login node: what only shows, asks or computes imports neither torch nor what else takes long to read."""

import json
import re
import subprocess
import sys

import click
import pytest
from conftest import PROJECT

import hvdclip
from hvdclip.cli import main
from hvdclip.command.listing import SECTIONS
from hvdclip.training.rundir import RunDirectory

TORCH = ("torch", "torchvision", "horovod", "mpi4py")
HEAVY = (*TORCH, "numpy", "matplotlib", "jinja2")
# hvdclip in a Python in which an import of these packages fails
WITHOUT = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise AssertionError(f"{{name}} is imported")

sys.meta_path.insert(0, Forbidden())
{then}
"""
COMMAND = "from hvdclip.cli import main; main(sys.argv[1:], prog_name='hvdclip')"
ALL_HELP = """
from click.testing import CliRunner
from hvdclip.cli import main
for line in sys.argv[1:]:
    print(CliRunner().invoke(main, [*line.split(), "--help"], prog_name="hvdclip", catch_exceptions=False).output)
"""


def without(*arguments, forbidden=HEAVY, then=COMMAND):
    """(exit status, all that is said)."""
    line = [sys.executable, "-c", WITHOUT.format(forbidden=forbidden, then=then), *map(str, arguments)]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def lines_of(group, line=""):
    """The command lines of all commands, with the groups."""
    yield line
    for name, each in group.commands.items():
        below = f"{line} {name}".strip()
        yield from lines_of(each, below) if isinstance(each, click.Group) else [below]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that is done, of a process that is gone."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    line = [sys.executable, "-m", "hvdclip", "train", "configs/quadratics.yaml", "train.steps=20", "--run-dir", folder]
    subprocess.run(line, cwd=PROJECT, capture_output=True, check=True, timeout=60)
    return folder


def test_what_is_forbidden_fails():
    assert "AssertionError: torch is imported" in without("algorithms")[1]


def test_the_list_of_commands():
    status, said = without("--help")
    listed = {title: re.findall(r"^  ([\w-]+) ", text, re.MULTILINE) for title, text in sections(said)}
    assert status == 0 and listed == {title: list(names) for title, names in SECTIONS.items()}


def sections(said):
    return re.findall(r"^(\w+):\n((?:  .*\n)+)", said.partition("Options:")[2], re.MULTILINE)


def test_the_version():
    assert without("--version") == (0, f"hvdclip, version {hvdclip.__version__}\n")


def test_the_help_of_all_commands():
    lines = list(lines_of(main))
    status, said = without(*lines, then=ALL_HELP)
    assert len(lines) > 25 and "bench scaling" in lines
    usages = re.findall(r"^Usage: hvdclip ?([a-z -]*?) (?=\[)", said, re.MULTILINE)
    assert status == 0 and usages == lines, said


def test_a_run_that_is_done(run):
    status, said = without("status", run)
    assert status == 0 and said.startswith("done at step 20\n")
    assert without("status", run, "--requeue") == (1, "no requeue: done at step 20\n")
    status, said = without("watch", run)
    assert status == 0 and re.match(r"done at step 20; step 20 round \d+ epoch [\d.]+ loss [\d.]+ clipped \d+%", said)
    assert without("stop", run) == (2, f"hvdclip: {run} is not running: done at step 20\n")
    status, said = without("cancel", run)
    assert status == 2 and said == f"hvdclip: {run} has no job of hvdclip submit: there is no job.json in it\n"


def test_a_run_that_is_alive_is_asked_to_stop(tmp_path):
    alive = RunDirectory(tmp_path / "run")
    alive.create()
    alive.write_config("")
    assert without("stop", alive.path) == (0, f"{alive.path} has been asked to stop\n")
    assert (alive.path / "STOP").exists()


def test_configurations():
    status, said = without("configs")
    assert status == 0 and all(file.stem in said for file in (PROJECT / "configs").glob("*.yaml"))
    assert without("configs", "quickstart") == (0, (PROJECT / "configs/quickstart.yaml").read_text())


def test_the_script_of_a_job(tmp_path):
    status, said = without("submit", "quadratics", "--nodes", 3, "--dry-run", "--run-dir", tmp_path / "run")
    assert status == 0 and "\n#SBATCH --nodes=3\n" in said and f"\nrun={tmp_path}/run\n" in said
    status, said = without("submit", "quadratics", "train.seed=1,2", "--array", "--dry-run", "--run-dir", tmp_path)
    assert status == 0 and "\n#SBATCH --array=0-1\n" in said


# T_comm = 6 * 25 us + 2 * 7/8 * 40 MB / 1.25 GB/s = 56.15 ms, beside a step of 100 ms
PREDICTED = ["10GbE", "8", "56.1", "64%", "1.56", "11", "1.49", "95%", "0.95"]
OF_LINK = ("--links", "10GbE", "--ranks", "8")


def row(said):
    return [cell.strip() for cell in re.search(r"^│(.*)│$", said, re.MULTILINE)[1].split("│")]


def test_a_prediction():
    status, said = without("predict", "--step-ms", "100", "--floats", "1e7", *OF_LINK)
    assert status == 0 and row(said) == PREDICTED


def test_a_prediction_from_a_study(tmp_path):
    def point(ranks, interval):
        measured = {"samples": [8], "seconds": [0.1], "parts": {"waiting": [0.0]}, "work": [[0.1] * ranks], "sent": [0]}
        return measured | {"interval": interval, "data": "real", "bytes": 4e7 / interval}

    points = {ranks: {"points": [point(ranks, 1), point(ranks, 4)]} for ranks in (1, 2)}
    study = {"strong": False, "config": {}, "ranks": points, "alone": points[1]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    status, said = without("predict", "--study", tmp_path, *OF_LINK, forbidden=TORCH)
    assert status == 0 and row(said) == PREDICTED


def test_pictures_and_a_page_of_a_run(run, tmp_path):
    status, said = without("plot", run, "--out", tmp_path / "plots", forbidden=TORCH)
    assert status == 0 and "celgc" in said and list((tmp_path / "plots").glob("*.svg"))
    status, said = without("report", run, "--out", tmp_path / "report", forbidden=TORCH)
    assert status == 0 and said.startswith(f"report: {tmp_path}/report/")
    assert "<h1>Run run</h1>" in next((tmp_path / "report").glob("*.html")).read_text()


def test_data(tmp_path):
    folder = tmp_path / "mirror/ptb"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(f"words of {split}\n")
    status, said = without("data", "ptb", "--root", tmp_path / "data", "--from", (tmp_path / "mirror").as_uri())
    assert status == 0 and f"HVDCLIP_DATA={tmp_path / 'data'}" in said
    assert (tmp_path / "data/ptb/valid.txt").read_text() == "words of valid\n"


def test_import_hvdclip():
    then = "import hvdclip; print(*dir(hvdclip)); print(hvdclip.NonFiniteGradient.__name__)"
    status, said = without(then=then)
    assert status == 0
    names, error = said.splitlines()
    assert {*hvdclip.__all__, "comm", "methods", "__version__"} <= set(names.split()) and error == "NonFiniteGradient"


def test_what_hvdclip_has_is_imported_when_it_is_used():
    used = """
import pickle, sys
import hvdclip
before = "torch" in sys.modules
from hvdclip import optimizer
assert hvdclip.optimizer is optimizer is hvdclip.methods.optimizer is pickle.loads(pickle.dumps(optimizer))
assert hvdclip.simulate is hvdclip.comm.simulate and hvdclip.algorithms()[0]["name"] == "local_sgd"
print(before, "torch" in sys.modules, "optimizer" in vars(hvdclip))
hvdclip.optimise
"""
    done = subprocess.run([sys.executable, "-c", used], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False True True\n"
    assert "AttributeError: module 'hvdclip' has no attribute 'optimise'" in done.stderr
