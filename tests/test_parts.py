"""Ranks that are a part of the world: process sets, hvd.init(comm=...), a part of MPI's world, and worlds of one."""

import subprocess
import sys

import pytest
import torch
from launch import python_ranks

pytestmark = pytest.mark.ranks

# Two trainings that differ in model, algorithm and number of collectives, on the two ranks of comm.
TRAIN = """
import sys
import torch
import horovod.torch as hvd
import hvdclip

def train(which, comm, rank):
    torch.manual_seed(10 * which + rank)
    width = 4 + which
    model = torch.nn.Sequential(torch.nn.Linear(width, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1))
    chosen = [("celgc", dict(gamma=0.1, interval=3)), ("naive_parallel_clip", dict(gamma=0.2)),
              ("celgc", dict(gamma=0.1, interval=2, compression="int8"))]
    if hvd.mpi_enabled():
        chosen.append(("decentralized_clip", dict(tau=1.0)))
    for name, settings in chosen[which:]:
        optimizer = hvdclip.optimizer(name, model, lr=0.1, comm=comm, timeout=30, **settings)
        assert (optimizer.comm.rank, optimizer.comm.size) == (rank, 2)
        for step in range(7):
            optimizer.zero_grad()
            inputs = torch.randn(8, width)
            (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
        assert optimizer.comm.gather(rank) == [0, 1] and optimizer.comm.sum([rank]) == [1.0]
        optimizer.synchronize()
    return torch.cat([t.double().flatten() for t in model.state_dict().values()]).clone()
"""
ALONE = """
hvd.init()
for which in (0, 1):
    torch.save(train(which, None, hvd.rank()), f"{folder}/alone.{{which}}.{{hvd.rank()}}")
"""
IN_SETS = """
sets = [hvd.ProcessSet([0, 3]), hvd.ProcessSet([1, 2])]
hvd.init(process_sets=sets)
me = hvd.rank()
which = int(me in (1, 2))
torch.save(train(which, sets[which], sets[which].rank()), f"{folder}/set.{{which}}.{{sets[which].rank()}}")
for wrong in (sets[1 - which], hvd.ProcessSet([0, 1]), "ranks"):
    try:
        hvdclip.optimizer("celgc", torch.nn.Linear(2, 1), lr=0.1, gamma=0.1, comm=wrong)
    except (ValueError, TypeError) as error:
        print("REFUSED", me, error, flush=True)
# ranks in unlike numbers of sets still meet, and the whole world trains beside them
everyone = hvdclip.optimizer("local_sgd", torch.nn.Linear(2, 1), lr=0.1, timeout=30)
assert (everyone.comm.rank, everyone.comm.size) == (me, 4) and everyone.comm.sum([1.0]) == [4.0]
"""
IN_WORLDS = """
from mpi4py import MPI
me = MPI.COMM_WORLD.rank
which = int(me in (1, 2))
hvd.init(comm={comm})
torch.save(train(which, None, hvd.rank()), f"{folder}/world.{{which}}.{{hvd.rank()}}")
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What two ranks get that are a world, by training and rank."""
    folder = tmp_path_factory.mktemp("alone")
    python_ranks(TRAIN + ALONE.format(folder=folder), 2)
    return {(which, rank): torch.load(folder / f"alone.{which}.{rank}") for which in (0, 1) for rank in (0, 1)}


def same_as_alone(folder, name, alone):
    for (which, rank), expected in alone.items():
        assert torch.equal(torch.load(folder / f"{name}.{which}.{rank}"), expected), (which, rank)
    assert not torch.equal(alone[0, 0][:3], alone[1, 0][:3])


def test_two_process_sets_train_two_models_as_two_worlds_of_two_ranks_do(tmp_path, alone):
    done = python_ranks(TRAIN + IN_SETS.format(folder=tmp_path), 4)
    same_as_alone(tmp_path, "set", alone)
    for rank in range(4):
        other = "0, 3" if rank in (1, 2) else "1, 2"
        assert (
            f"REFUSED {rank} comm is the process set of ranks {other}, which rank {rank} is not in; pass each rank the "
            "set that it is in\n"
        ) in done.stdout
        assert f"REFUSED {rank} comm is a process set of ranks [0, 1] that Horovod does not have: pass" in done.stdout
        assert f"REFUSED {rank} comm is of type str; allowed: a Communicator of hvdclip, a process" in done.stdout


def test_process_sets_under_gloo(tmp_path):
    python_ranks(TRAIN + IN_SETS.format(folder=tmp_path), 4, "horovodrun-gloo")
    for which in (0, 1):
        first, second = (torch.load(tmp_path / f"set.{which}.{rank}") for rank in (0, 1))
        assert torch.equal(first, second) and first.isfinite().all()


@pytest.mark.parametrize("comm", ["[[0, 3], [1, 2]][which]", "MPI.COMM_WORLD.Split(which, me)"])
def test_parts_of_the_world_that_horovod_is_given_meet_their_own_neighbours(tmp_path, alone, comm):
    python_ranks(TRAIN + IN_WORLDS.format(folder=tmp_path, comm=comm), 4)
    same_as_alone(tmp_path, "world", alone)


@pytest.mark.parametrize("part", ["MPI.COMM_WORLD.Split(0, MPI.COMM_WORLD.rank)", "None"])
def test_an_exception_on_one_rank_of_a_part_ends_the_others_under_mpi4py(part):
    source = f"""
    import torch
    from mpi4py import MPI
    import hvdclip
    from hvdclip.comm.mpi import Mpi4py
    comm = Mpi4py({part})
    optimizer = hvdclip.optimizer("celgc", torch.nn.Linear(6, 1), lr=1e-3, max_norm=1.0, interval=1, comm=comm)
    if comm.rank == 1:
        raise ValueError("a batch could not be read")
    comm.average_([torch.zeros(3)])
    """
    done = python_ranks(source, 2, timeout=60, check=False)
    assert done.returncode != 0 and "ValueError: a batch could not be read" in done.stderr


OWN_LOOP = "import horovod.torch as hvd, torch, hvdclip; hvd.init({init}); " + (
    "print('RANKS', hvdclip.optimizer('celgc', torch.nn.Linear(4, 1), lr=0.1, gamma=0.1).comm.size)"
)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (
            {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
            "RuntimeError: srun started 2 tasks without MPI support, so each would train alone: use srun --mpi=pmix",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "RuntimeError: OMPI_COMM_WORLD_SIZE=2 announces 2 ranks, but Horovod's world has 1: the launcher and "
            "Horovod's MPI do not fit together",
        ),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"HOROVOD_ELASTIC": "1", "HOROVOD_SIZE": "2", "HOROVOD_CONTROLLER": "mpi"}, None),
    ],
)
def test_worlds_of_one_rank_that_should_be_one_world_are_refused(env, says):
    command = ["env", *(f"{name}={value}" for name, value in env.items()), sys.executable, "-c"]
    done = subprocess.run([*command, OWN_LOOP.format(init="")], capture_output=True, text=True, timeout=100)
    if says is None:
        assert done.returncode == 0 and "RANKS 1" in done.stdout, done.stderr
    else:
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(says), done.stderr


def test_a_part_of_one_rank_is_no_fault():
    done = python_ranks(OWN_LOOP.format(init="comm=[int(__import__('os').environ['OMPI_COMM_WORLD_RANK'])]"), 2)
    assert done.stdout.count("RANKS 1") == 2


def test_horovod_that_is_started_again_has_optimizers_as_before():
    source = """
    from mpi4py import MPI  # which keeps MPI for the second start; a Horovod that has started it ends it too
    import torch
    import horovod.torch as hvd
    import hvdclip
    sets = [hvd.ProcessSet([0, 1]), hvd.ProcessSet([2])]
    for _ in range(2):
        hvd.init(process_sets=sets)
        for comm in (None, sets[hvd.rank() // 2]):
            torch.manual_seed(hvd.rank())
            model = torch.nn.Linear(3, 1)
            optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=2, comm=comm, timeout=20)
            for step in range(4):
                optimizer.zero_grad()
                model(torch.ones(2, 3) * (hvd.rank() + 1)).square().mean().backward()
                optimizer.step()
            everyone = optimizer.comm.gather(model.weight.tolist())
            assert all(weight == everyone[0] for weight in everyone) and optimizer.rounds == 2
            assert len(everyone) == (3 if comm is None else comm.size())
        hvd.barrier()  # a shutdown on one rank is one of all
        hvd.shutdown()
    print("TWICE")
    """
    assert python_ranks(source, 3).stdout.count("TWICE") == 3
