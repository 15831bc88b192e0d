"""What starts the ranks of other tests."""

import contextlib
import json
import os
import signal
import sys

import psutil
import pytest
from launch import LOST_BY_MPI, MARK, WARM, Launch, python_ranks, run_ranks

FAILS_AT_FIRST = """
import sys
from pathlib import Path

tries = Path("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= {failures}:
    sys.exit({said!r})
print("done")
"""


@pytest.mark.slow
def test_a_launch_that_open_mpi_has_lost_is_made_once_more(tmp_path):
    source = FAILS_AT_FIRST.format(said=LOST_BY_MPI, failures=1)
    with pytest.warns(UserWarning, match=LOST_BY_MPI):
        assert python_ranks(source, 1, "alone", cwd=tmp_path).stdout == "done\n"
    assert (tmp_path / "tries").read_text() == "xx"


@pytest.mark.parametrize("said", ["Segmentation fault", "mca_pml_ob1_recv_frag_callback_match in MPI_Recv"])
def test_any_other_failure_counts_at_once(tmp_path, said):
    with pytest.raises(AssertionError, match=rf"exit status 1(.|\n)*{said}"):
        python_ranks(FAILS_AT_FIRST.format(said=said, failures=1), 1, "alone", cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == "x"


def test_a_launch_that_is_lost_twice_has_failed(tmp_path):
    source = FAILS_AT_FIRST.format(said=LOST_BY_MPI, failures=2)
    with pytest.warns(UserWarning), pytest.raises(AssertionError, match="exit status 1"):
        python_ranks(source, 1, "alone", cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == "xx"


SAYS = """
import gc, json, os, resource, signal, sys, threading
import horovod.torch, hvdclip.training.elastic, hvdclip.cli
said = {
    "arguments": sys.argv, "folder": os.getcwd(), "name": __name__, "file": __file__, "paths": sys.path,
    "environment": dict(os.environ), "held": list(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
    "handlers": [str(signal.getsignal(number)) for number in range(1, 32)], "garbage": gc.isenabled(),
    "descriptors": sorted(os.listdir("/proc/self/fd")), "ends": [os.isatty(number) for number in range(3)],
    "buffered": [sys.stdout.line_buffering, sys.stdout.write_through, sys.stderr.line_buffering],
    "threads": threading.active_count(),
    "umask": os.umask(0), "open files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "main": "said" in vars(sys.modules["__main__"]),
}
print("SAID", json.dumps(said))
"""


@pytest.mark.ranks
@pytest.mark.parametrize(("launcher", "ranks"), [("alone", 1), ("mpirun", 2)])
def test_a_rank_that_is_forked_finds_what_one_finds_that_starts_by_itself(tmp_path, launcher, ranks):
    script = tmp_path / "folder/says.py"
    script.parent.mkdir()
    script.write_text(SAYS)

    def said(warm):
        env = {"PYTHONPATH": f"{tmp_path}/one:{tmp_path}/two", "MINE": "ä b"}
        command = [sys.executable, str(script), "an argument", "-x"]
        done = run_ranks(command, ranks, launcher, cwd=tmp_path, env=env, warm=warm)
        found = [json.loads(line.split(maxsplit=1)[1]) for line in done.stdout.splitlines() if "SAID" in line]
        for each in found:
            own = {name: each["environment"].pop(name, None) for name in list(each["environment"]) if is_own(name)}
            assert (WARM in own) == warm
        return found

    forked, others = said(True), said(False)
    assert len(forked) == ranks
    for one, other in zip(forked, others, strict=True):
        for name, value in other.items():
            assert one[name] == value, name


def is_own(name):
    """Whether each launch gives its ranks another value."""
    return name in (MARK, WARM, "LC_CTYPE") or name.startswith(("PMIX_", "PRTE_", "OMPI_", "OMP_", "HWLOC_"))


@pytest.mark.ranks
@pytest.mark.parametrize(
    "end",
    [
        *("pass", "sys.exit(3)", "sys.exit('said')", "raise KeyError('said')", "os._exit(4)", "os.abort()"),
        *("os.kill(os.getpid(), signal.SIGKILL)", "atexit.register(print, 'at the end', flush=True)"),
    ],
)
def test_a_rank_that_is_forked_ends_as_one_that_starts_by_itself(end):
    source = f"import atexit, os, signal, sys\nprint('begun', flush=True)\n{end}\n"
    ends = [python_ranks(source, 1, "alone", check=False, warm=warm) for warm in (True, False)]
    forked, other = ((done.returncode, done.stdout, done.stderr.splitlines()[-1:]) for done in ends)
    assert forked == other and forked[1].startswith("begun")


@pytest.mark.ranks
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_rank_that_is_forked_ends_with_what_its_launcher_ends(tmp_path, number):
    script = tmp_path / "waits.py"
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n")
    with Launch([sys.executable, str(script)], 1, "alone", warm=True) as job:
        rank = psutil.Process(int(job.process.stdout.readline()))
        assert rank.pid != job.process.pid
        os.kill(job.process.pid, number)
        assert job.finish(30, check=False).returncode == -number
    psutil.wait_procs([rank], timeout=10)
    assert not rank.is_running()


@pytest.mark.ranks
def test_what_a_rank_that_is_forked_has_started_ends_with_it():
    source = """
    import os, subprocess
    print(subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL).pid, flush=True)
    os._exit(0)
    """
    started = int(python_ranks(source, 1, "alone").stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(started).wait(10)  # which raises an error where that is too short


@pytest.mark.ranks
def test_ranks_that_are_forked_leave_nothing_to_the_next_and_draw_unlike_numbers():
    source = """
    import random, numpy, torch, hvdclip, horovod.torch as hvd
    hvd.init()
    assert torch.get_default_dtype() == torch.float32 and not hasattr(hvdclip, "left")
    torch.set_default_dtype(torch.float64)
    hvdclip.left = True
    print("DRAWN", hash("a string"), random.random(), numpy.random.rand(), torch.initial_seed())
    """
    drawn = [line.split()[1:] for _ in range(2) for line in python_ranks(source, 2).stdout.splitlines()]
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [2, 4, 4, 4]
