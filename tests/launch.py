"""Starts commands as several real ranks, and leaves no process of theirs behind."""

import functools
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
HVDCLIP = str(BIN / "hvdclip")
TESTS = Path(__file__).resolve().parent
LAUNCHERS = ("alone", "mpirun", "horovodrun-mpi", "horovodrun-gloo")
# Ranks leave their launcher's process group, so a mark in their environment is what finds them all.
MARK = "HVDCLIP_TEST_LAUNCH"
# Without it each rank of Open MPI 5 looks for a second for networks of libfabric, which no test has.
NO_SEARCH = {"OMPI_MCA_btl": "^ofi"}
# Names the processes that ranks are forked from, for tests/warm_rank.py.
WARM = "HVDCLIP_TEST_WARM"
# What Open MPI 5's mpirun says when it fails by itself, before the program has begun: rarely, on a busy machine.
LOST_BY_MPI = "PMIx server's listener thread failed to start"


class Launch:
    """A command that runs on one-thread ranks; at the end of `with` none of its processes is left.

    With `warm` ranks that run a Python script, hvdclip too, are forks of a Python that has imported torch, Horovod and
    hvdclip: a launcher starts tests/warm_rank.py for each, which hands signals on and ends as the rank does.
    """

    def __init__(
        self,
        command: Sequence[str],
        ranks: int,
        launcher: str = "mpirun",
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        warm: bool = False,
    ):
        self.mark = uuid.uuid4().hex
        if warm:
            command, env = _warmed(command, env or {})
        self.process = subprocess.Popen(
            [*_launch_line(launcher, ranks), *command],
            env=_environment(self.mark, env or {}),
            cwd=cwd,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *error: object) -> None:
        _kill_marked(self.mark)

    def finish(self, timeout: float, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Waits for its end; fails after `timeout` seconds and, with `check`, on a non-zero exit."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_marked(self.mark)
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"not finished after {timeout} s\n{_tail(stdout, stderr)}") from None
        done = subprocess.CompletedProcess(self.process.args, self.process.returncode, stdout, stderr)
        return _checked(done) if check else done


def run_ranks(
    command: Sequence[str],
    ranks: int,
    launcher: str = "mpirun",
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    check: bool = True,
    warm: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as Launch.finish does, and once more where Open MPI has lost the first launch."""
    for _ in range(2):
        with Launch(command, ranks, launcher, env, cwd, warm) as launch:
            done = launch.finish(timeout, check=False)
        if done.returncode == 0 or LOST_BY_MPI not in done.stderr:
            break
        warnings.warn(f"Open MPI lost a launch before the program began:\n{done.stderr}", stacklevel=2)
    return _checked(done) if check else done


def python_ranks(
    source: str,
    ranks: int,
    launcher: str = "mpirun",
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    check: bool = True,
    warm: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs Python text, dedented, as run_ranks does with a command."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(textwrap.dedent(source))
        return run_ranks([sys.executable, str(script)], ranks, launcher, timeout, env, cwd, check, warm)


def _launch_line(launcher: str, ranks: int) -> list[str]:
    """Returns what stands before the command."""
    if launcher == "alone" and ranks == 1:
        return []
    if launcher == "mpirun":
        as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        return ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    if launcher in ("horovodrun-mpi", "horovodrun-gloo"):
        return ["horovodrun", "-np", str(ranks), "--" + launcher.removeprefix("horovodrun-")]
    raise ValueError(f"no way to start {ranks} ranks with launcher {launcher!r}, only with one of {LAUNCHERS}")


def _warmed(command: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
    """Returns the command and its environment for ranks that are forked, of a script; of anything else as they are."""
    program, *arguments = command
    if program == HVDCLIP:
        arguments = list(command)
    elif program != sys.executable or not arguments[0].endswith(".py"):
        return command, env
    stand_in = [sys.executable, "-IS", str(TESTS / "warm_rank.py")]
    return [*stand_in, *arguments], {**env, WARM: ":".join(warm.socket for warm in _warm())}


def forked(folder: Path) -> Mapping[str, str]:
    """Writes an hvdclip whose ranks are forks, as with `warm`; returns what it needs in its environment."""
    command, env = _warmed([HVDCLIP], {})
    file = folder / "hvdclip"
    file.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    file.chmod(0o755)
    return env


class Warm:
    """A process that forks ranks (tests/warm.py); it ends with this one, whose pipe it reads."""

    def __init__(self, number: int):
        self._folder = tempfile.TemporaryDirectory()
        self.socket = f"{self._folder.name}/socket"
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "warm.py"), self.socket],
            # the order of sets differs between ranks, as it does between Pythons that start by themselves
            env=_environment("", {"PYTHONHASHSEED": str(number)}),
            start_new_session=True,  # what interrupts the tests leaves it to kill its ranks
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n", "tests/warm.py has not started"


@functools.cache
def _warm() -> list[Warm]:
    """Returns those that ranks of even and of odd numbers are forked from."""
    both = [Warm(number) for number in range(2)]
    for warm in both:
        warm.wait()
    return both


def _environment(mark: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Returns this process's environment, fit for several ranks on few cores."""
    few_cores = {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **few_cores, **NO_SEARCH, **extra, MARK: mark}


def _marked(mark: str) -> list[psutil.Process]:
    """Returns the living processes that carry the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _kill_marked(mark: str) -> None:
    """Kills every process of a launch and fails if one survives."""
    deadline = time.monotonic() + 10
    while survivors := _marked(mark):
        assert time.monotonic() < deadline, f"could not kill {survivors}"
        for process in survivors:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{_tail(done.stdout, done.stderr)}")
    return done


def _tail(stdout: str, stderr: str) -> str:
    """Returns the last lines of both outputs."""
    return "\n".join(
        f"--- end of {name} ---\n" + "\n".join(text.splitlines()[-40:])
        for name, text in (("stdout", stdout), ("stderr", stderr))
    )
