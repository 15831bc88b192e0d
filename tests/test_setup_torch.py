"""Which torch jobs/setup.sh takes, and how it keeps what is whole of an interrupted set-up."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_setup import NAME, PROJECT, PYTHON, Machine, machine, script, shell  # noqa: F401  (machine is a fixture)


def package(site: Path, name: str, version: str, text: str = "x = 1\n") -> Path:
    """Installs a package of one file as pip does, with the list of its files, and returns its metadata's folder."""
    (site / f"{name}.py").write_text(text)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}.py,,{len(text)}\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    return info


@pytest.fixture
def active(machine: Machine) -> Path:  # noqa: F811
    """An active Python whose packages, as those of a module, lie in a folder of PYTHONPATH."""
    site = machine.home / "module/site-packages"
    site.mkdir(parents=True)
    (machine.bin / NAME).rename(machine.bin / "python")
    return site


def test_a_system_without_torch(machine: Machine, active: Path) -> None:  # noqa: F811
    """The line names the Python that was looked at."""
    machine.script("python", f'exec {PYTHON} -S "$@"')
    assert "--system-torch: " in machine.complaint("--system-torch")
    assert "has no torch: activate or name (PYTHON) a Python that has one" in machine.complaint("--system-torch")


@pytest.mark.parametrize("version", ["2.3.1", "2.14.0+cu130", "1.13.0", "3.0.0"])
def test_a_torch_of_the_system_out_of_range(machine: Machine, active: Path, version: str) -> None:  # noqa: F811
    """The line has its version and what is allowed."""
    package(active, "torch", version)
    line = machine.complaint("--system-torch", PYTHONPATH=str(active))
    assert f"has torch {version}; allowed: torch>=2.4,<2.14" in line


@pytest.mark.parametrize("version", ["2.4.0", "2.13.9+cpu"])
def test_a_torch_of_the_system_in_range(tmp_path: Path, version: str) -> None:
    """The ends of the range, with a local part or without."""
    site = tmp_path / "site-packages"
    site.mkdir()
    package(site, "torch", version)
    said = shell(
        tmp_path, f"python={PYTHON} system_asked=1 torch=system; choose_sites; torch_there", PYTHONPATH=str(site)
    )
    assert said == f"{version}\n"


def test_a_torch_of_the_system_is_seen_in_the_environment(tmp_path: Path) -> None:
    """The environment sees the folders of the other Python, behind its own, with their .pth files."""
    version = "2.7.0a0+nv25"
    site, further = tmp_path / "a/site-packages", tmp_path / "further"
    further.mkdir()
    site.mkdir(parents=True)
    (site / "further.pth").write_text(f"{further}\n")
    package(site, "torch", version, f"version = {version!r}\n")
    package(further, "triton", "3")
    said = shell(
        tmp_path,
        f"""
        python={PYTHON} system_asked=1 torch=system wheels=
        choose_sites; make_venv; torch_there
        "$venv/bin/python" -c 'import torch, triton; print(torch.version)'
        system_asked=0; sites=; choose_torch; choose_sites; echo "$torch"; torch_there""",
        PYTHONPATH=str(site),
    )
    assert said.splitlines()[1:] == [version, version, "system", version]


@pytest.mark.parametrize("value", ["2.7.1", "torchvision", "numpy torch"])
def test_a_setting_that_names_no_torch(machine: Machine, value: str) -> None:  # noqa: F811
    """The line has the value and an example."""
    assert f"TORCH={value} does not name a torch: write for example TORCH=" in machine.complaint(TORCH=value)


def test_arguments_that_do_not_go_together(machine: Machine) -> None:  # noqa: F811
    """Each is named in its line."""
    assert "--system-torch and TORCH=torch name two torches" in machine.complaint("--system-torch", TORCH="torch")
    assert "unknown argument --cuda; allowed: --system-torch" in machine.complaint("--cuda")
    assert "WHEELS=/nowhere is not a folder" in machine.complaint("--system-torch", WHEELS="/nowhere")
    assert "WHEELS needs --system-torch" in machine.complaint(WHEELS=str(machine.home))


def test_another_torch_is_another_environment_and_is_remembered(tmp_path: Path) -> None:
    """What was chosen need not be named again; another choice is seen."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.setup").write_text(f"chosen python {PYTHON}\nchosen torch torch==2.7.1\nchosen sites \n")
    asked = 'system_asked=0 wheels=; choose_torch; echo "$torch"'
    assert shell(tmp_path, asked) == "torch==2.7.1\n"
    assert shell(tmp_path, asked, TORCH="torch") == "torch\n"
    assert shell(tmp_path, asked, TORCH="torch>=2.8") == "torch>=2.8\n"


def test_torch_tells_a_build_what_it_needs() -> None:
    """The values of torch itself, in the order in which the shell reads them."""
    facts = subprocess.run([sys.executable, "jobs/setup/torch_facts.py"], cwd=PROJECT, capture_output=True, text=True)
    lines = facts.stdout.splitlines()
    assert len(lines) == 9, facts
    assert lines[:4] == [torch.__version__, torch.__path__[0], torch.version.cuda or "", torch.version.hip or ""]
    assert bool(lines[4]) == bool(lines[5]) == bool(lines[6]) == bool(torch.version.cuda)
    assert lines[7] == str(torch.cuda.device_count())


def test_a_stage_that_is_done_is_kept_and_a_failed_one_is_done_again(tmp_path: Path) -> None:
    """What stands after a stage that is done again is done again, too."""
    (tmp_path / ".venv").mkdir()
    stages = """
    one() { echo one; }; two() { echo two; }; three() { echo three; [[ ! -e $venv/broken ]]; }
    stage one "$ONE" one; stage two "" two; stage three "" three; echo end"""
    (tmp_path / ".venv/broken").touch()
    with pytest.raises(AssertionError, match=r"one.ntwo.nthree"):
        shell(tmp_path, stages, ONE="a")
    (tmp_path / ".venv/broken").unlink()
    assert shell(tmp_path, stages, ONE="a") == "three\nend\n"
    assert shell(tmp_path, stages, ONE="a") == "end\n"
    assert shell(tmp_path, stages, ONE="b") == "one\ntwo\nthree\nend\n"


def test_packages_installed_by_halves_are_forgotten(tmp_path: Path) -> None:
    """A file that is missing or cut short, or no list of files: pip must install it again. A whole one stays."""
    packages = {name: package(tmp_path, name, "1.0") for name in ("whole", "cut", "missing", "unlisted")}
    (tmp_path / "cut.py").write_text("x")
    (tmp_path / "missing.py").unlink()
    (packages["unlisted"] / "RECORD").unlink()
    shutil.copytree(packages["whole"], tmp_path / "~hole-0.9.dist-info")
    mend = [sys.executable, PROJECT / "jobs/setup/mend.py", tmp_path]
    said = subprocess.run(mend, capture_output=True, text=True, check=True).stdout
    assert sorted(said.strip().split(", ")) == ["cut-1.0", "missing-1.0", "unlisted-1.0"]
    assert [folder.name for folder in tmp_path.glob("*.dist-info")] == ["whole-1.0.dist-info"]
    assert subprocess.run(mend, capture_output=True, text=True, check=True).stdout == "\n"
