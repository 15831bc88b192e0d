"""jobs/setup.sh for real: each thing a user must mend ends it with one line and changes nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / os.environ.get("HVDCLIP_VENV", ".venv")
STAMP = (VENV / ".setup").read_text() if (VENV / ".setup").exists() else ""
PYTHON = os.path.realpath(sys.executable)
NAME = f"python3.{sys.version_info[1]}"
TOOLS = "awk bash basename cat cut df dirname env flock grep id mkdir mktemp mv rm sed sha256sum tail tee timeout uname"


def script(path: Path, text: str) -> None:
    """Writes a shell script that can be called."""
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


class Machine:
    """A copy of the project's set-up, and a PATH on which only the named programs are found."""

    def __init__(self, folder: Path) -> None:
        self.project, self.bin, self.home = folder / "project", folder / "bin", folder / "home"
        shutil.copytree(PROJECT / "jobs", self.project / "jobs")
        for name in ("setup.cfg", "setup.py", "pyproject.toml"):
            shutil.copy(PROJECT / name, self.project)
        (self.project / "hvdclip").mkdir()
        for name in ("__init__.py", "torchvision_import.py"):
            shutil.copy(PROJECT / "hvdclip" / name, self.project / "hvdclip")
        self.bin.mkdir()
        self.home.mkdir()
        for name in TOOLS.split():
            self.link(name, shutil.which(name))
        self.link(NAME, PYTHON)
        self.script("g++", "exit 0")

    def link(self, name: str, target: str | None) -> None:
        """Puts a program of the real machine on PATH."""
        assert target, f"this machine has no {name}"
        (self.bin / name).symlink_to(target)

    def script(self, name: str, text: str) -> None:
        """Puts a shell script on PATH, in place of a program of that name."""
        (self.bin / name).unlink(missing_ok=True)
        script(self.bin / name, text)

    def set_up(self, *arguments: str, script: str = "setup", **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the copy's jobs/setup.sh, or another script."""
        return subprocess.run(
            [self.project / f"jobs/{script}.sh", *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home), **env},
            capture_output=True,
            text=True,
        )

    def files(self) -> set[Path]:
        """Returns what there is."""
        return {*self.project.rglob("*"), *self.home.rglob("*")}

    def complaint(self, *arguments: str, **env: str) -> str:
        """Runs the set-up, which must fail as a user's mistake does, and returns its one line."""
        before = self.files()
        done = self.set_up(*arguments, **env)
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert self.files() == before
        return done.stderr


def shell(folder: Path, text: str, **env: str) -> str:
    """Runs functions of the set-up, with the environment in `folder`, and returns what they print."""
    given = f"venv={folder}/.venv root={PROJECT} log={folder}/log"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{given}\nsource jobs/setup/parts.sh\n{text}"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done
    return done.stdout


def on_path(folder: Path) -> str:
    """A PATH on which what is in the folder comes first."""
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has all that a set-up needs."""
    return Machine(tmp_path)


def test_no_python(machine: Machine) -> None:
    """Without any Python the line says which ones to install."""
    (machine.bin / NAME).unlink()
    assert "no Python 3.10 to 3.13 on PATH: install one" in machine.complaint()


def as_python(version: str) -> str:
    """A script that is this Python, but says that it is of another version."""
    return f'exec {PYTHON} -c "import sys; sys.version_info = ({version}); exec(sys.argv.pop(1))" "${{@:2}}"'


@pytest.mark.parametrize("version", ["3, 9, 2", "3, 14, 0"])
def test_other_python(machine: Machine, version: str) -> None:
    """A python3 of a version out of range is named with its version."""
    (machine.bin / NAME).unlink()
    machine.script("python3", as_python(version))
    release = ".".join(version.split(", ")[:2])
    assert f"python3 is Python {release}: install Python 3.10 to 3.13 or set PYTHON to it" in machine.complaint()


def test_the_newest_python_that_will_do_is_taken(tmp_path: Path) -> None:
    """One that starts nothing, or lacks what a set-up needs, is passed over."""
    script(tmp_path / "python3.13", "echo 'python3.13: command not found' >&2; exit 127")
    script(tmp_path / "python3.12", as_python("3, 9, 2"))
    (tmp_path / "python3.11").symlink_to(PYTHON)
    (tmp_path / "python3.10").symlink_to(PYTHON)
    said = shell(tmp_path, 'system_asked=0 torch=torch wheels=; choose_python; echo "$python"', PATH=on_path(tmp_path))
    assert said == f"{tmp_path}/python3.11\n"


def test_the_pythons_looked_for_are_those_of_setup_cfg() -> None:
    """One range, in the project's metadata and in the set-up."""
    (bounds,) = re.findall(r"python_requires = >=3\.(\d+),<3\.(\d+)", (PROJECT / "setup.cfg").read_text())
    (names,) = re.findall(r"names=\((python3\..*)\)", (PROJECT / "jobs/setup/python.sh").read_text())
    assert [int(minor) for minor in re.findall(r"3\.(\d+)", names)] == [*reversed(range(*map(int, bounds)))]


def test_python_setting_that_is_not_there(machine: Machine) -> None:
    """A PYTHON that does not exist is not silently replaced."""
    assert "PYTHON=/nowhere/python does not exist" in machine.complaint(PYTHON="/nowhere/python")


def test_no_compiler(machine: Machine) -> None:
    """Without a C++ compiler, and without root's apt-get, the line names both ways to one."""
    (machine.bin / "g++").unlink()
    assert "no C++ compiler: load your site's compiler module or have root install one" in machine.complaint()


def test_broken_mpirun(machine: Machine) -> None:
    """An mpirun that does not run is named with the first line of what it says."""
    machine.script("mpirun", "echo 'libopen-rte.so.40: cannot open shared object file'; echo more; exit 127")
    line = machine.complaint()
    assert f"mpirun at {machine.bin}/mpirun does not run: libopen-rte.so.40: cannot open shared object file; " in line
    assert "take it off PATH or load a working module" in line


@pytest.mark.parametrize("wrapper", [None, "echo 'fatal error: mpi.h: No such file or directory' >&2; exit 1"])
def test_mpirun_without_development_files(machine: Machine, wrapper: str | None) -> None:
    """An MPI that starts programs but cannot build them is no use, with a compiler wrapper or without."""
    machine.script("mpirun", "echo 'mpirun (Open MPI) 4.1.4'")
    if wrapper:
        machine.script("mpicxx", wrapper)
    line = machine.complaint()
    assert f"no working mpicxx next to {machine.bin}/mpirun: install that MPI's development files" in line


def test_no_disk(machine: Machine) -> None:
    """Too small a disk is noticed before anything is made."""
    machine.script("df", "echo header; echo /dev/x 9000000 5000000 4000000 56% /")
    assert f".venv needs about 7 GB and {machine.project} has 3 GB free" in machine.complaint()


def test_cache_that_cannot_be_made(machine: Machine) -> None:
    """A cache folder out of reach is named with the setting that moves it."""
    assert "cannot make /proc/hvdclip/wheels: set HVDCLIP_CACHE" in machine.complaint(HVDCLIP_CACHE="/proc/hvdclip")


@pytest.mark.slow
def test_a_failing_pip_is_quoted_and_what_is_whole_is_kept(machine: Machine) -> None:
    """The line has pip's cause, the range of torch and the log's place; a finished .venv is not made again."""
    for attempt in ("first", "second"):
        done = machine.set_up(PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", TORCH="torch==2.3.1")
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert "setup: installing torch==2.3.1, of torch>=2.4,<2.14 (" in done.stderr
        assert "failed: ERROR: No matching distribution found for torch==2.3.1 (all of it in " in done.stderr
        assert str(machine.project / ".setup.log") in done.stderr
        leftover = machine.project / ".venv/left-over"
        assert ("setup: making " in done.stdout) == (attempt == "first") == (not leftover.exists())
        leftover.touch()
    done = machine.set_up(PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", TORCH="torch==2.3.0")
    assert "setup: making " in done.stdout and not leftover.exists(), "another torch has another .venv"


@pytest.mark.skipif("done proof" not in STAMP, reason="the project is not set up: run jobs/setup.sh")
def test_second_setup_is_short(tmp_path: Path) -> None:
    """In a finished project the set-up looks, says so, and does nothing."""
    # were it not finished after all, a full disk keeps the set-up from starting in the midst of the tests
    script(tmp_path / "df", "echo header; echo /dev/x 9 9 0 100% /")
    done = subprocess.run(
        [PROJECT / "jobs/setup.sh"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"setup: everything is installed, in {VENV}\n", done
