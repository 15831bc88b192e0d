"""What the README shows is what there is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import python_ranks

from hvdclip import algorithms

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
FAMILY = (PROJECT / "docs/family.md").read_text()
SCRIPT = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


@pytest.mark.ranks
@pytest.mark.parametrize("launcher", ["horovodrun-mpi", "horovodrun-gloo"])
def test_the_script_runs_on_two_ranks(launcher):
    done = python_ranks(SCRIPT, 2, launcher)
    shown = re.search(r"\{'step'.*\}", done.stdout)[0]
    assert done.stdout.count("{'step'") == 1, "rank 0 alone prints"
    metrics = eval(shown)
    assert metrics["step"] == 400 and metrics["round"] == 50 and 0 < metrics["loss"] < 0.8 and metrics["drift"] > 0


@pytest.mark.ranks
def test_the_script_runs_alone(tmp_path):
    (tmp_path / "example.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "'bytes'" in done.stdout, done.stderr


def test_the_guides_simulated_ranks_learn(capsys):
    script = re.search(r"```python\n(.*?)```", (PROJECT / "docs/own_loop.md").read_text(), re.DOTALL)[1]
    exec(script, {})
    losses = json.loads(capsys.readouterr().out)
    assert len(losses) == 4 and len(set(losses)) == 1 and losses[0] < 0.01


def test_the_files_and_links_it_names_are_there():
    for name in re.findall(r"(?:configs|jobs|slurm|docs)/[\w./]+\w", README):
        assert (PROJECT / name).exists(), name


def test_the_reference_is_that_of_the_code(tmp_path):
    file = tmp_path / "reference.md"
    subprocess.run([sys.executable, "jobs/reference.py", str(file)], cwd=PROJECT, check=True, timeout=60)
    assert file.read_text() == (PROJECT / "docs/reference.md").read_text(), "run python jobs/reference.py"


def test_what_troubleshooting_quotes_is_what_is_said():
    files = [*PROJECT.glob("hvdclip/**/*.py"), *PROJECT.glob("jobs/**/*.sh"), *PROJECT.glob("slurm/*.sh")]
    source = " ".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files)
    first_column = re.findall(r"^(`[^|\n]+)\|", (PROJECT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [text for cell in first_column for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 20
    for text in quoted:
        assert text in source, f"nothing says {text!r}"


def test_the_family_lists_every_algorithm():
    assert re.findall(r"^`(\w+)` \|", FAMILY.partition("`algorithm` |")[2], re.MULTILINE)[:5] == [
        "celgc",
        "local_sgd",
        "naive_parallel_clip",
        "clip_then_average",
        "minibatch_sgd",
    ]
    assert all(f"`{row['name']}`" in FAMILY for row in algorithms())
