"""Loops of one's own: a collective that only some ranks enter is named after a while, and ends the job."""

import time

import pytest
import torch
from launch import python_ranks

import hvdclip
from hvdclip.comm import Ledger, SingleRank
from hvdclip.comm.watch import Wait

BACKENDS = [("horovod", "mpirun"), ("horovod", "horovodrun-gloo"), ("mpi4py", "mpirun")]
LOOP = """
import time
import torch
import hvdclip
from hvdclip.comm import launched
comm = launched("{backend}")
model = torch.nn.Linear(4, 1)
optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=4, comm=comm, timeout={timeout})
for step in range(10):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    {at_the_end_of_a_step}
print("THROUGH", comm.rank, flush=True)
"""
ALONE = """
    if step == 5 and comm.rank == 0:
        with optimizer.averaged():
            pass
    if step == 5 and comm.rank == 1:
        time.sleep(1000)
"""
LEAVES = """
    if step == 5 and comm.rank == 1:
        time.sleep(1000)
"""


@pytest.mark.ranks
@pytest.mark.parametrize(("backend", "launcher"), BACKENDS)
@pytest.mark.parametrize(("faulty", "purpose"), [(ALONE, "evaluation"), (LEAVES, "round")])
def test_a_collective_that_one_rank_enters_is_named(backend, launcher, faulty, purpose):
    source = LOOP.format(backend=backend, timeout=2, at_the_end_of_a_step=faulty.strip())
    started = time.monotonic()
    done = python_ranks(source, 2, launcher, timeout=60, check=False)
    assert done.returncode != 0 and "THROUGH" not in done.stdout
    said = done.stderr + done.stdout
    assert "hvdclip: rank 0 on host " in said
    expected = f" s in a collective of purpose '{purpose}' (after 1 of purpose 'round') for the other ranks; timeout is"
    assert f"{expected} 2 s" in said, said
    assert said.count("for the other ranks") == 1
    assert time.monotonic() - started < 50


@pytest.mark.ranks
def test_a_rank_that_is_through_does_not_leave_the_other_one_waiting_under_mpi4py():
    leaves = "if step == 5 and comm.rank == 1: break"
    source = LOOP.format(backend="mpi4py", timeout=2, at_the_end_of_a_step=leaves)
    done = python_ranks(source, 2, timeout=60, check=False)
    assert done.returncode != 0
    assert "hvdclip: rank 0 on host " in done.stderr and "purpose 'round' (after 1 of purpose 'round')" in done.stderr


@pytest.mark.ranks
def test_a_start_that_one_rank_makes_is_named():
    source = """
    import time
    import torch
    import horovod.torch as hvd
    import hvdclip
    hvd.init()
    if hvd.rank() == 1:
        time.sleep(1000)
    hvdclip.optimizer("celgc", torch.nn.Linear(4, 1), lr=0.1, gamma=0.1, timeout=1.5)
    """
    done = python_ranks(source, 2, timeout=60, check=False)
    assert done.returncode != 0
    assert "s in a collective of purpose 'setup' (in set-up) for the other ranks; timeout is 1.5 s" in done.stderr


@pytest.mark.ranks
@pytest.mark.parametrize("backend", ["horovod", "mpi4py"])
def test_a_rank_that_is_late_by_less_or_has_no_timeout_or_works_alone_is_no_fault(backend):
    rests = {
        6.0: "if comm.rank == 1 and step == 3: time.sleep(3.5)",
        1.5: "if step % 4 == 0: time.sleep(3)",
        None: "if comm.rank == 1 and step == 3: time.sleep(3.5)",
    }
    loops = (LOOP.format(backend=backend, timeout=t, at_the_end_of_a_step=rest) for t, rest in rests.items())
    done = python_ranks("\n".join(loops), 2, timeout=60)
    assert done.stdout.count("THROUGH") == 6 and "waited" not in done.stderr


def test_only_waiting_in_one_and_the_same_collective_counts():
    ledger, wait = Ledger(), Wait()

    def waited(seconds):
        wait.go_on(ledger.pending, seconds)
        return wait.waited

    assert waited(5.0) == 0
    ledger.begin("round")
    assert [waited(1.0), waited(1.0), waited(0.5)] == [0, 1, 1.5], "from when it was seen first"
    ledger.end("round", 1, 4)
    assert waited(1.0) == 0
    ledger.begin("round")
    assert [waited(1.0), waited(1.0)] == [0, 1], "a new one begins anew"
    ledger.fail()
    assert [waited(1.0), waited(1.0)] == [0, 0], "an error has ended it"


@pytest.mark.parametrize("call", [lambda comm: comm.average_([torch.zeros(3)]), lambda comm: comm.gather(None)])
def test_an_error_that_ends_a_collective_ends_the_wait_and_is_told_as_one_of_other_ranks(call):
    ledgers = []

    def one(comm):
        ledgers.append(comm.ledger)
        if comm.rank == 0:
            call(comm)

    with pytest.raises(RuntimeError, match="do not meet"):
        hvdclip.simulate(one, 2)
    assert ledgers[0].pending is not None and ledgers[0].pending.failed


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(ValueError, match=r"timeout is .*; allowed: seconds above 0, or None for no limit"):
        hvdclip.optimizer("local_sgd", torch.nn.Linear(2, 1), lr=0.1, comm=SingleRank(), timeout=timeout)


def test_one_rank_and_simulated_ranks_are_not_watched():
    def one(comm):
        hvdclip.optimizer("local_sgd", torch.nn.Linear(2, 1), lr=0.1, comm=comm, timeout=0.01)
        time.sleep(0.05)
        comm.gather(None)
        return comm.timeout

    assert one(SingleRank()) == 0.01 and hvdclip.simulate(one, 2) == [0.01, 0.01]


@pytest.mark.ranks
def test_a_collective_that_is_refused_at_its_start_is_told_as_one_of_other_ranks():
    source = """
    import time
    import horovod.torch as hvd
    import torch
    from hvdclip.comm import launched
    comm = launched("horovod")
    comm.average_([torch.zeros(3)])
    if comm.rank == 1:
        hvd.shutdown()
    else:
        time.sleep(2)
        try:
            comm.average_([torch.zeros(3)])
        except RuntimeError:
            print(comm.ledger.pending.purpose, comm.ledger.pending.failed)
    """
    assert "round True" in python_ranks(source, 2, "horovodrun-gloo", timeout=60).stdout
