"""What several test files share: who may start ranks, and an emulated SLURM cluster."""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chosen import is_chosen, without_a_test
from launch import BIN, NO_SEARCH

from hvdclip.methods import METHODS

PROJECT = Path(__file__).resolve().parent.parent
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
SLURM_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "nsenter", "unshare", "pgrep")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the chosen tests, and puts the fast ones first: those of one process, then real ranks, then the slow."""
    names = {item.nodeid.removeprefix("tests/"): item for item in items}
    if not any("::" in argument for argument in config.args) and (gone := without_a_test(names)):
        raise pytest.UsageError(f"tests/chosen.py names what is no test: {', '.join(gone)}")
    for name, item in names.items():
        if is_chosen(name):
            item.add_marker("chosen")
    items.sort(key=lambda item: [bool(item.get_closest_marker(name)) for name in ("slow", "slurm", "ranks")])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test marked `ranks` where no ranks can be started."""
    if item.get_closest_marker("ranks"):
        if not importlib.util.find_spec("horovod"):
            pytest.skip("Horovod is not installed: run jobs/setup.sh")
        if not shutil.which("mpirun", path=f"{BIN}:{os.environ['PATH']}"):
            pytest.skip("no mpirun on PATH: run jobs/setup.sh")


@pytest.fixture
def own_methods():
    """What a test registers is gone after it."""
    registered = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(registered)


class SlurmCluster:
    """A real SLURM on four emulated nodes; tests/slurmlab.sh tells how.

    Besides the default partition there are `low`, whose jobs give way to those of `high`.
    """

    def __init__(self, shared: list[Path]) -> None:
        # names of its own, so that two test runs on one machine do not meet
        self.state = Path(f"/var/tmp/hvdclip-slurmlab-{os.getpid()}")
        self.env = {
            **os.environ,
            **NO_SEARCH,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LAB": str(self.state),
            "HEAD": f"head{os.getpid()}",
            "PFX": f"t{os.getpid()}n",
            "SHARED": ":".join(str(folder) for folder in shared),
            "OMP_NUM_THREADS": "1",
            "EXTRA_CONF": "\n".join(
                [
                    "PreemptType=preempt/partition_prio",
                    "PreemptMode=REQUEUE",
                    "PartitionName=low Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20",
                    "PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF",
                ]
            ),
        }

    def run(self, *command: str, timeout: float = 120) -> str:
        """Runs a command on the head node, in the project's folder, and returns what it printed."""
        return self._lab("run", *command, timeout=timeout)

    def jobs(self, job: str) -> list[dict[str, str]]:
        """Returns scontrol's fields of a job, or of each task of an array."""
        said = self.run("scontrol", "show", "job", "--oneliner", job)
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines()]

    def wait(self, job: str, seconds: float, log: Path | None = None) -> list[dict[str, str]]:
        """Returns the same once all have ended; fails with what is in the log where that takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.jobs(job)
            states = [fields["JobState"] for fields in found]
            if all(state in ENDED for state in states):
                return found
            said = log.read_text() if log is not None and log.exists() else ""
            assert time.monotonic() < deadline, f"job {job} still {states} after {seconds} s\n{said}"
            time.sleep(0.5)

    def on_node(self, number: int, *command: str) -> str:
        """Runs a command inside a node, counted from 1."""
        return self._lab("enter", str(number), *command)

    def link(self, number: int, state: str) -> None:
        """Cuts a node off ("down") or joins it again ("up")."""
        self._lab("link", str(number), state)

    def crash(self, number: int) -> None:
        """Every process of a node dies at once, and nothing is said on the wire."""
        self._lab("crash", str(number))

    def boot(self, number: int) -> None:
        """Starts a node that has crashed, and waits until SLURM has it back."""
        self._lab("boot", str(number))
        self.run("bash", "-c", f"until [[ $(sinfo -hNn {self.node(number)} -o %t) == idle* ]]; do sleep 0.5; done")

    def node(self, number: int) -> str:
        return f"{self.env['PFX']}{number}"

    def start(self) -> None:
        """Boots all nodes."""
        self.state.mkdir()
        self._lab("up", "4")

    def stop(self) -> None:
        """Ends the cluster and whatever still runs on it."""
        self._lab("down")
        shutil.rmtree(self.state)

    def _lab(self, *arguments: str, timeout: float = 120) -> str:
        # a file, because the cluster's daemons would hold a pipe open
        with (self.state / "answer").open("w+") as answer:
            done = subprocess.run(
                [PROJECT / "tests/slurmlab.sh", *arguments],
                env=self.env,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
            answer.seek(0)
            text = answer.read()
        assert done.returncode == 0, f"slurmlab.sh {' '.join(arguments)}: exit status {done.returncode}\n{text}"
        return text


def _no_cluster_because() -> str | None:
    """Returns why no emulated cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "the emulated SLURM cluster needs root"
    if missing := [program for program in SLURM_PROGRAMS if not shutil.which(program)]:
        return f"no {', '.join(missing)} on PATH: install the packages that .ci/run names"
    probe = f"probe{os.getpid()}"
    for command in (["ip", "netns", "add", probe], ["ip", "netns", "del", probe], ["unshare", "-muinpf", "true"]):
        if subprocess.run(command, capture_output=True).returncode:
            return f"this machine refuses namespaces ({' '.join(command)})"
    return None


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running cluster of four nodes, all of which see the project and pytest's temporary folder."""
    if reason := _no_cluster_because():
        pytest.skip(reason)
    cluster = SlurmCluster([tmp_path_factory.getbasetemp(), PROJECT])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
