"""Communicators: simulated ranks, one rank, and the choice of one from the environment."""

import random

import numpy as np
import pytest
import torch

import hvdclip
from hvdclip.announced import SIZES
from hvdclip.comm import SingleRank, default
from hvdclip.comm.environment import launched


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*SIZES, "PMIX_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_simulated_ranks_truly_average():
    def one(comm):
        x = torch.arange(3.0) * (comm.rank + 1)
        y = torch.full((2,), comm.rank, dtype=torch.float64)
        comm.average_([x, y])
        return x, y

    for x, y in hvdclip.simulate(one, 4):
        torch.testing.assert_close(x, torch.arange(3.0) * 2.5, rtol=0, atol=0)
        torch.testing.assert_close(y, torch.full((2,), 1.5, dtype=torch.float64), rtol=0, atol=0)


def test_broadcast_gather_and_sum():
    def one(comm):
        x = torch.full((2,), float(comm.rank))
        comm.broadcast_([x])
        return x.tolist(), comm.gather(f"rank {comm.rank}"), comm.sum([comm.rank, 1.5])

    for x, names, totals in hvdclip.simulate(one, 3):
        assert x == [0, 0] and names == ["rank 0", "rank 1", "rank 2"] and totals == [3, 4.5]


def test_each_simulated_rank_has_random_states_of_its_own():
    def draws(comm, meet):
        torch.manual_seed(comm.rank)
        np.random.seed(comm.rank)
        random.seed(comm.rank)
        drawn = []
        for _ in range(3):
            drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
            if meet:
                comm.gather(None)
        return drawn

    assert hvdclip.simulate(lambda comm: draws(comm, True), 3) == hvdclip.simulate(lambda comm: draws(comm, False), 3)


def test_simulation_leaves_the_callers_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hvdclip.simulate(lambda comm: torch.rand(10), 2)
    assert torch.equal(torch.rand(3), expected)


def test_an_exception_in_one_rank_ends_all_of_them():
    ended = []

    def one(comm):
        try:
            comm.gather(None)
            if comm.rank == 1:
                raise KeyError("broken")
            comm.gather(None)
        finally:
            ended.append(comm.rank)

    with pytest.raises(KeyError, match="broken") as error:
        hvdclip.simulate(one, 3)
    assert error.value.__notes__ == ["in simulated rank 1 of 3"]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_ranks_that_do_not_meet_are_an_error_and_no_hang(late):
    def one(comm):
        if comm.rank != late:
            comm.average_([torch.zeros(2)])

    with pytest.raises(RuntimeError, match="do not meet in the same collective"):
        hvdclip.simulate(one, 3)


def test_tensors_of_different_shape_do_not_meet():
    with pytest.raises(RuntimeError, match="do not meet in the same collective"):
        hvdclip.simulate(lambda comm: comm.average_([torch.zeros(comm.rank + 1)]), 2)


def test_the_ledger_counts_by_purpose():
    def one(comm):
        comm.average_([torch.zeros(5), torch.zeros(2, dtype=torch.float64)])
        comm.average_([torch.zeros(3)], "evaluation")
        comm.gather("x")
        return {p: (comm.ledger[p].collectives, comm.ledger[p].bytes) for p in comm.ledger.purposes()}

    assert hvdclip.simulate(one, 2)[1] == {"round": (2, 36), "evaluation": (1, 12), "setup": (1, 0)}


def test_one_rank_communicates_nothing():
    comm = SingleRank()
    x = torch.arange(3.0)
    comm.average_([x])
    assert x.tolist() == [0, 1, 2] and comm.gather("a") == ["a"] and comm.sum([2.0]) == [2.0]
    assert comm.ledger.purposes() == []


def test_zero_ranks_are_refused():
    with pytest.raises(ValueError, match="ranks is 0"):
        hvdclip.simulate(lambda comm: None, 0)


@pytest.mark.parametrize("variable", SIZES)
def test_announced_ranks_without_horovod_are_an_error(monkeypatch, variable):
    assert isinstance(default(), SingleRank)
    monkeypatch.setenv(variable, "4")
    with pytest.raises(RuntimeError, match=f"{variable}=4 announces 4 ranks, but Horovod is not initialised"):
        hvdclip.optimizer("local_sgd", torch.nn.Linear(2, 2), lr=0.1)


def test_srun_without_mpi_is_caught_before_horovod_starts(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(RuntimeError, match="srun --mpi=pmix"):
        launched()
