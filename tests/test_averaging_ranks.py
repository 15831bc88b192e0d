"""Averages on real ranks, by Horovod and by mpi4py: the same as on simulated ranks."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from averaging_cases import CLIPPED, DELAYED, INT8, NODES, WEIGHTS, cases, expected, runs_on, train, without_reference
from launch import python_ranks, run_ranks

from hvdclip import simulate

pytestmark = pytest.mark.ranks

TESTS = str(Path(__file__).parent)
CASES = [*cases(), *without_reference()]
LAUNCHES = [
    ("horovod", "mpirun", 2),
    ("horovod", "mpirun", 4),
    ("mpi4py", "mpirun", 2),
    ("mpi4py", "mpirun", 4),
    ("horovod", "horovodrun-gloo", 2),
]


@cache
def simulated(ranks):
    """x of all ranks by the name of the case."""
    return {
        name: np.array(simulate(lambda comm, a=algorithm, s=settings: train(comm, a, s), ranks, ranks_per_node=2))
        for name, algorithm, settings in CASES
        if runs_on(settings, ranks)
    }


@pytest.mark.parametrize(("backend", "launcher", "ranks"), LAUNCHES)
def test_real_ranks_train_as_simulated_ones_do(backend, launcher, ranks, tmp_path):
    """To the bit where a sum is of two numbers, or taken by the ranks themselves; else to the order of the sum."""
    script = [sys.executable, f"{TESTS}/averaging_cases.py", str(tmp_path), backend]
    run_ranks(script, ranks, launcher, timeout=150)
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(ranks)]
    assert set(found[0]) == set(simulated(ranks))
    for name, _, settings in CASES:
        if not runs_on(settings, ranks):
            continue
        x = np.array([each[name] for each in found])
        assert (x[:, -1] == x[0, -1]).all(), f"{name}: ranks differ at the end"
        sums = settings.keys() & {"node_interval", "warmup", "fragments", "merge_alpha"}  # uncoded ones
        if ranks == 2 or ("compression" in settings and not sums):
            assert np.array_equal(x, simulated(ranks)[name]), name
        else:
            np.testing.assert_allclose(x, simulated(ranks)[name], rtol=1e-12, atol=1e-12, err_msg=name)


PRELUDE = f"""
import socket, sys
sys.path.insert(0, {TESTS!r})
import numpy as np
import torch
import hvdclip

def start(backend, process_sets=True):
    if backend == "horovod":
        from hvdclip.comm.horovod import initialise
        return initialise(process_sets)
    from hvdclip.comm.mpi import Mpi4py
    return Mpi4py()
"""

COLLECTIVES = """
comm = start("{backend}")
r, n = comm.rank, comm.size
neighbours = sorted({{(r - 1) % n, (r + 1) % n}} - {{r}})
for dtype in (torch.float32, torch.float64):
    x = torch.arange(5, dtype=dtype) * (r + 1)
    cost = comm.average_([x])
    assert torch.equal(x, torch.arange(5, dtype=dtype) * (n + 1) / 2) and cost.bytes == 5 * x.element_size()
    x = torch.full((3,), float(r), dtype=dtype)
    assert comm.ring_average_([x]).bytes == 3 * x.element_size() * len(neighbours)
    expected = torch.stack([torch.full((3,), float(i), dtype=dtype) for i in [r, *neighbours]]).mean(dim=0)
    assert torch.equal(x, expected), x
for dtype in (torch.float32, torch.float64, torch.uint8, torch.int32):
    sent = torch.arange(6, dtype=dtype).view(2, 3) + 10 * r
    everyone = comm.start_gather(sent)()[0]
    assert all(torch.equal(t, sent - 10 * r + 10 * i) for i, t in enumerate(everyone)) and len(everyone) == n
    rows = torch.arange(n, dtype=dtype)[:, None] + torch.full((n, 3), 10 * r, dtype=dtype)
    sums, cost = comm.start_reduction(rows, lambda theirs: theirs.sum(dim=0, dtype=dtype))()
    of_rank = [torch.full((3,), n * j + 10 * n * (n - 1) / 2).to(dtype) for j in range(n)]
    assert all(map(torch.equal, sums, of_rank)) and cost.bytes == 3 * (n + 1) * rows.element_size()
for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64):
    for shape in ((), (2, 2)):
        t = torch.full(shape, r + 1).to(dtype) if dtype != torch.bool else torch.full(shape, r == 0)
        comm.broadcast_([t])
        assert torch.equal(t, torch.ones(shape).to(dtype)), t
not_contiguous = torch.arange(6.0).view(2, 3).t() * (r + 1)
comm.broadcast_([not_contiguous])
assert torch.equal(not_contiguous, torch.arange(6.0).view(2, 3).t())
assert comm.gather(("rank", r)) == [("rank", i) for i in range(n)] and comm.sum([r, 0.5]) == [n * (n - 1) / 2, n / 2]

# two under way, taken the other way round, with another collective in between
a, b = torch.full((4,), float(r)), torch.full((2,), 2.0 * r)
first, second = comm.start_average_([a], name="a"), comm.start_average_([b], name="b")
gathered = comm.start_gather(torch.full((1,), r))
rows = r + 10.0 * torch.arange(n)[:, None]
third = comm.start_reduction(rows, lambda theirs: (theirs * torch.arange(1, n + 1)[:, None]).sum(dim=0), name="c")
assert comm.sum([1.0]) == [n]
of_rank = [sum((i + 1) * (i + 10 * j) for i in range(n)) for j in range(n)]
assert [sum.item() for sum in third()[0]] == of_rank, "in the order of ranks"
second(), first()
assert (a == (n - 1) / 2).all() and (b == n - 1).all() and [int(t) for t in gathered()[0]] == list(range(n))
tally = comm.ledger["round"]
print("LEDGER", r, tally.collectives, tally.bytes)
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_are_the_same_by_both_backends(ranks):
    ledgers = set()
    for backend in ("horovod", "mpi4py"):
        done = python_ranks(PRELUDE + COLLECTIVES.format(backend=backend), ranks, timeout=60)
        lines = sorted(line for line in done.stdout.splitlines() if line.startswith("LEDGER"))
        assert len(lines) == ranks
        ledgers.add(tuple(lines))
    assert len(ledgers) == 1, ledgers


UNEVEN = """
from averaging_cases import build, train
comm = start("{backend}")
hosts = ["large", "large", "large", "small"]
socket.gethostname = lambda: hosts[comm.rank]
np.save("{folder}/" + str(comm.rank), [train(start("{backend}"), "celgc", settings) for settings in {settings}])
for hosts, says in ((["a"] * 4, "all 4 ranks are on one host"), (["a", "b", "c", "d"], "every host has one rank")):
    try:
        build(start("{backend}"), "celgc", {settings}[0])
    except ValueError as error:
        assert f"node_interval is 2, but {{says}}; allowed" in str(error)
        print("REFUSED")
"""


@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_hosts_of_several_sizes(backend, tmp_path):
    """Three ranks on one host, one alone; then hosts that leave nothing to average inside."""
    uneven = [CLIPPED | NODES, CLIPPED | NODES | DELAYED | {"weights": WEIGHTS}]
    source = PRELUDE + UNEVEN.format(backend=backend, folder=tmp_path, settings=repr(uneven))
    assert python_ranks(source, 4, timeout=100).stdout.count("REFUSED") == 8
    found = np.array([np.load(tmp_path / f"{rank}.npy") for rank in range(4)])
    for x, settings in zip(found.transpose(1, 2, 0, 3), uneven, strict=True):
        reference = expected(4, "celgc", settings, nodes=((0, 1, 2), (3,))).x
        np.testing.assert_allclose(x, reference, rtol=1e-12, atol=1e-12)


def test_horovod_without_process_sets_says_how_to_have_them():
    source = """
comm = start("horovod", process_sets=False)
host = f"host{comm.rank // 2}"
socket.gethostname = lambda: host
try:
    hvdclip.optimizer("celgc", torch.nn.Linear(3, 1), comm=comm, lr=0.1, gamma=0.1, interval=4, node_interval=2)
except RuntimeError as error:
    assert "HOROVOD_DYNAMIC_PROCESS_SETS" in str(error) and "\\n" not in str(error)
    print("REFUSED")
"""
    assert python_ranks(PRELUDE + source, 4, timeout=60).stdout.count("REFUSED") == 4


AUTO = """
import time
from averaging_cases import CLIPPED, build, steps
comm = start("{backend}")
real = time.perf_counter
time.perf_counter = lambda: real() * (1 + comm.rank)  # clocks that differ

def run(interval):
    model, optimizer = build(comm, "celgc", CLIPPED | interval)
    ends = []
    optimizer.on_round = lambda: ends.append(optimizer.steps)
    rows = steps(model, optimizer, 0, 80)
    optimizer.synchronize()
    return np.array([*rows, model.x]), ends, dict(optimizer.intervals.starts)

x, ends, log = run({{"interval": "auto", "drift_budget": 20.0}})
assert comm.gather((ends, log)) == [(ends, log)] * comm.size
again, ends_again, _ = run({{"interval": log}})
assert np.array_equal(x, again) and ends == ends_again
print("LOG", log)
"""


@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_auto_agrees_whatever_the_clocks_say_and_is_the_run_of_its_log(backend):
    done = python_ranks(PRELUDE + AUTO.format(backend=backend), 2, timeout=60)
    assert done.stdout.count("LOG") == 2


BEHIND = """
import time
from averaging_cases import CLIPPED, DELAYED, EVERY, build, steps
comm = start("{backend}")
model, optimizer = build(comm, "celgc", CLIPPED | DELAYED | {{"compression": "int8", "delay": 1}})
steps(model, optimizer, 0, EVERY)
time.sleep(0.5 if comm.rank == 0 else 3)
start = time.perf_counter()
steps(model, optimizer, EVERY, EVERY + 1)
assert optimizer.rounds == 1
print("WAITED", comm.rank, time.perf_counter() - start)
"""


@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_all_of_a_coded_average_happens_behind_the_steps(backend):
    """Rank 0 wants the means while rank 1 still is in its step."""
    done = python_ranks(PRELUDE + BEHIND.format(backend=backend), 2, timeout=60)
    (waited,) = (float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("WAITED 0"))
    assert waited < 1


FAILS = """
from averaging_cases import CLIPPED, DELAYED, build, steps
comm = start("{backend}")
model, optimizer = build(comm, "celgc", CLIPPED | DELAYED | {extra})
steps(model, optimizer, 0, 5)
if comm.rank == 1:
    raise KeyError("no such sample")
steps(model, optimizer, 5, 40)
"""


@pytest.mark.parametrize("extra", [{}, INT8], ids=str)
@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_a_rank_that_dies_while_an_average_is_under_way_ends_the_job(backend, extra):
    """run_ranks fails on a time-out, so a hang is a failure."""
    done = python_ranks(PRELUDE + FAILS.format(backend=backend, extra=extra), 2, timeout=40, check=False)
    assert done.returncode != 0 and "no such sample" in done.stdout + done.stderr


TWO = """
from averaging_cases import CLIPPED, DELAYED, Model, STEPS, build, steps, train
comm = start("{backend}")
for extra in ({{}}, {{"compression": "int8"}}, {{"compression": "topk", "top_share": 0.1}}):
    settings = [CLIPPED | DELAYED | extra, CLIPPED | DELAYED | extra | {{"delay": 1, "lr": 0.05}}]
    alone = [train(start("{backend}"), "celgc", each) for each in settings]
    pairs = [build(comm, "celgc", each) for each in settings]
    rows = [[], []]
    for step in range(STEPS):
        for (model, optimizer), found in zip(pairs, rows):
            found += steps(model, optimizer, step, step + 1)
    for (model, optimizer), found, expected in zip(pairs, rows, alone):
        optimizer.synchronize()
        assert np.array_equal([*found, model.x], expected), extra
print("ALONE")
"""


@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_two_optimizers_on_one_communicator_have_averages_under_way_at_one_time(backend):
    done = python_ranks(PRELUDE + TWO.format(backend=backend), 2, timeout=60)
    assert done.stdout.count("ALONE") == 2
