"""Tensors that are longer than MPI counts: pieces, by a small limit on real ranks and once by a really long tensor."""

import fcntl
import itertools
import re

import psutil
import pytest
import torch
from launch import python_ranks

from hvdclip.comm import pieces

BACKENDS = [("horovod", "mpirun"), ("horovod", "horovodrun-gloo"), ("mpi4py", "mpirun")]
C_INT = 2**31 - 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 512])
@pytest.mark.parametrize("entries", [0, 1, 2**30, 2**30 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1])
def test_no_call_counts_more_than_a_c_int_holds_and_none_is_left_out(entries, ranks):
    found = list(pieces.spans(entries, ranks))
    assert len(found) == pieces.number_of(entries, ranks)
    assert found[0][0] == 0 and found[-1][1] == entries
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert max(last - first for first, last in found) * ranks <= C_INT


@pytest.mark.parametrize("entries", [2**31 - 1, 2**31, 2**32 + 1])
def test_long_tensors_are_cut_and_short_ones_are_not(entries):
    long = torch.empty(entries, device="meta")
    parts = pieces.pieces(long)
    assert sum(map(len, parts)) == entries and max(map(len, parts)) <= C_INT
    short = torch.empty(2, 3)
    assert pieces.pieces(short) == [short]


SMALL = """
import torch
from hvdclip.comm import pieces
pieces.MOST = pieces.CACHED = {most}
{start}
r, n = comm.rank, comm.size
x, y = torch.arange(23.0) * (r + 1), torch.arange(4, dtype=torch.float64).view(2, 2) - r
comm.average_([x, y])
assert torch.equal(x, torch.arange(23.0) * (n + 1) / 2), x
assert torch.equal(y, torch.arange(4, dtype=torch.float64).view(2, 2) - (n - 1) / 2), y
whole = torch.arange(23.0) * (r + 1)
comm.average_([whole])
assert torch.equal(whole, x)
assert comm.ledger["round"].collectives == 2 * -(-23 // {most}) + 1 - (-4 // {most}) - 1, comm.ledger["round"]

sent = torch.arange(22, dtype=torch.int32).view(2, 11) + 100 * r
everyone = comm.start_gather(sent, "gathered")()[0]
assert [t.tolist() for t in everyone] == [(sent - 100 * r + 100 * i).tolist() for i in range(n)]
rows = 100.0 * r + 10 * torch.arange(n)[:, None] + torch.arange(13) / 16
sums = comm.start_reduction(rows, lambda theirs: theirs.sum(0), "reduced")()[0]
expected = [sum(100.0 * i + 10 * j + torch.arange(13) / 16 for i in range(n)) for j in range(n)]
assert all(map(torch.equal, sums, expected)), sums
calls = lambda width: -(-width // max(1, {most} // n))
assert comm.ledger["gathered"].collectives == calls(22)
assert comm.ledger["reduced"].collectives == 2 * calls(13)

started = torch.arange(9, dtype=torch.float64).view(3, 3).t() * (r + 1)
comm.broadcast_([started, torch.tensor(1.0)])
assert torch.equal(started, torch.arange(9, dtype=torch.float64).view(3, 3).t())
assert comm.ledger["setup"].collectives == -(-72 // {most}) - (-4 // {most})
values = [("rank " + str(i)) * (i * 5 + 1) for i in range(n)]
assert comm.gather(values[r]) == values
if comm.has_ring:
    z = torch.arange(17.0) * 3**r
    comm.ring_average_([z])
    neighbours = sorted({{(r - 1) % n, (r + 1) % n}} - {{r}})
    assert torch.equal(z, torch.stack([torch.arange(17.0) * 3**i for i in [r, *neighbours]]).mean(0))

# one machine, by MPI
pieces.MOST, pieces.CACHED = 2**30, 5
assert comm.share_memory == {shared}
for meanwhile in (False, True):
    before, again = comm.ledger["round"].collectives, torch.arange(23.0) * (r + 1)
    comm.start_average_([again], meanwhile=meanwhile)()
    assert torch.equal(again, x)
    assert comm.ledger["round"].collectives - before == (5 if comm.share_memory and not meanwhile else 1)
print("ALIKE", r)
"""
START = {
    "horovod": "import horovod.torch as hvd; hvd.init(); from hvdclip.comm import default; comm = default()",
    "mpi4py": "from hvdclip.comm.mpi import Mpi4py; comm = Mpi4py()",
}


@pytest.mark.ranks
@pytest.mark.parametrize(("backend", "launcher"), BACKENDS)
@pytest.mark.parametrize("most", [1, 7])
def test_pieces_make_the_same_values(backend, launcher, most):
    shared = launcher == "mpirun"
    done = python_ranks(SMALL.format(most=most, start=START[backend], shared=shared), 3, launcher)
    assert done.stdout.count("ALIKE") == 3


REALLY = """
import torch
import hvdclip
{start}
n = 560_000_000
with torch.device("meta"):
    model = torch.nn.Linear(n, 1, bias=False)
weight = torch.full((1, n), float(comm.rank + 1))
places = [0, 2**28, 2**29 - 1, 2**29, n - 2, n - 1]
weight[0, places] += torch.arange(6.0)
model.weight = torch.nn.Parameter(weight)
del weight
optimizer = hvdclip.optimizer("local_sgd", model, lr=0.1, comm=comm)
x = optimizer.x.flats[0][:n]
assert x[places].tolist() == [1, 2, 3, 4, 5, 6], x[places]
assert x.min() == 1 and x.max() == 6, "rank 0's everywhere"
x.mul_(comm.rank + 1)
comm.average_([x])
assert x[places].tolist() == [1.5, 3, 4.5, 6, 7.5, 9] and x.min() == 1.5 and x.max() == 9
print("STARTED", comm.rank, comm.ledger["setup"].collectives, comm.ledger["round"].collectives)
"""


@pytest.fixture
def most_of_the_memory(tmp_path_factory):
    """For one test at a time, of all processes of this pytest."""
    with (tmp_path_factory.getbasetemp().parent / "memory.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("backend", "launcher"), BACKENDS)
def test_a_model_of_more_than_2_gib_starts(backend, launcher, most_of_the_memory):
    free = psutil.virtual_memory().available
    if free < 20 * 2**30:
        pytest.skip(f"needs 20 GB of free memory, here are {free / 2**30:.0f}")
    done = python_ranks(REALLY.format(start=START[backend]), 2, launcher, timeout=500)
    assert len(re.findall(r"STARTED \d", done.stdout)) == 2
