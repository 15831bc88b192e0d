"""Real ranks under Horovod: how many collectives there are, what is sent, and what a failing rank does."""

import json
import re

import numpy as np
import pytest
from launch import HVDCLIP, python_ranks, run_ranks

pytestmark = pytest.mark.ranks

TRAIN = """
import json, time
import horovod.torch as hvd
import torch
import hvdclip

hvd.init()
torch.manual_seed(hvd.rank())
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 1)){cast}
optimizer = hvdclip.optimizer("{algorithm}", model, lr=0.1, {settings})
for step in range({steps}):
    optimizer.zero_grad()
    inputs = torch.randn(8, 4){cast}
    (model(inputs) - inputs.sum(1, keepdim=True)).pow(2).mean().backward()
    optimizer.step()
optimizer.synchronize()
ledger = optimizer.comm.ledger["round"]
state = torch.cat([t.double().flatten() for t in model.state_dict().values()])
same = hvd.allgather(state[None], name="test.gather").eq(state).all().item()
if hvd.rank() == 0:
    print("RESULT", json.dumps([optimizer.rounds, ledger.collectives, ledger.bytes, optimizer.space.size,
                                optimizer.message.wires[torch.float32].numel(), same]))
time.sleep(1)  # Horovod writes its timeline in a thread, and drops what is left of it at its end
"""


def trained(tmp_path, algorithm="celgc", settings="gamma=0.1, interval=5", steps=17, cast="", ranks=2):
    """(what rank 0 found, how often Horovod's own timeline shows each kind of collective)."""
    timeline = tmp_path / "timeline.json"
    source = TRAIN.format(algorithm=algorithm, settings=settings, steps=steps, cast=cast)
    done = python_ranks(source, ranks, env={"HOROVOD_TIMELINE": str(timeline)})
    found = json.loads(re.search(r"RESULT (.*)", done.stdout)[1])
    names = re.findall(r'"name": ?"NEGOTIATE_(\w+)"', timeline.read_text())
    return found, {name: names.count(name) for name in set(names)}


def test_exactly_one_collective_a_round(tmp_path):
    (rounds, collectives, payload, size, message, same), seen = trained(tmp_path)
    assert rounds == 4, "three rounds of five steps and the incomplete one"
    assert collectives == 4 and seen["ALLREDUCE"] == 4, "statistics and buffers ride along"
    assert payload == 4 * 4 * message and message - size < 400
    assert same, "parameters and buffers are bit-identical on all ranks"


def test_a_gradient_method_sends_one_message_a_step(tmp_path):
    (rounds, collectives, _, _, _, same), seen = trained(tmp_path, "naive_parallel_clip", "gamma=0.1", steps=6)
    assert rounds == collectives == seen["ALLREDUCE"] == 6 and same


def test_bfloat16_is_averaged_in_one_float32_message(tmp_path):
    (rounds, collectives, payload, _, message, same), seen = trained(
        tmp_path, settings="gamma=0.1, interval=4", steps=8, cast=".bfloat16()"
    )
    assert rounds == collectives == seen["ALLREDUCE"] == 2 and payload == 2 * 4 * message and same


def test_an_evaluation_at_a_round_end_is_free_and_elsewhere_one_average(tmp_path):
    source = """
    import horovod.torch as hvd
    import torch
    import hvdclip

    hvd.init()
    model = torch.nn.Linear(4, 1)
    optimizer = hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=2)
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        with optimizer.averaged():
            pass
    ledger = optimizer.comm.ledger
    assert ledger["round"].collectives == 2 and ledger["evaluation"].collectives == 2
    """
    python_ranks(source, 2)


@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_a_non_finite_gradient_is_raised_on_every_rank(algorithm):
    source = f"""
    import horovod.torch as hvd
    import torch
    import hvdclip

    hvd.init()
    model = torch.nn.Linear(4, 1)
    interval = dict(interval=4) if "{algorithm}" == "celgc" else dict()
    optimizer = hvdclip.optimizer("{algorithm}", model, lr=0.1, gamma=0.1, **interval)
    try:
        for step in range(8):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).sum().backward()
            if hvd.rank() == 1 and step == 5:
                model.weight.grad.fill_(float("nan"))
            optimizer.step()
    except hvdclip.NonFiniteGradient as error:
        print("RAISED", hvd.rank(), optimizer.steps, error, model.weight.isfinite().all().item())
    """
    done = python_ranks(source, 2)
    at = 8 if algorithm == "celgc" else 6
    for rank in range(2):
        assert f"RAISED {rank} {at} the loss, the gradient or its norm is not finite on rank 1 at step 6" in done.stdout
    assert "False" not in done.stdout


def test_ranks_that_disagree_end_with_an_error():
    source = """
    import horovod.torch as hvd
    import torch
    import hvdclip

    hvd.init()
    hvdclip.optimizer("celgc", torch.nn.Linear(4, 1), lr=0.1, gamma=0.1, interval=2 + hvd.rank())
    """
    done = python_ranks(source, 2, check=False)
    assert (
        done.returncode != 0 and "ranks disagree on interval; allowed: one value for all" in done.stderr + done.stdout
    )


def test_mpirun_without_hvd_init_is_an_error_and_not_two_solo_runs():
    source = """
    import torch
    import hvdclip

    hvdclip.optimizer("celgc", torch.nn.Linear(4, 1), lr=0.1, gamma=0.1)
    """
    done = python_ranks(source, 2, check=False)
    assert done.returncode != 0
    assert "OMPI_COMM_WORLD_SIZE=2 announces 2 ranks, but Horovod is not initialised" in done.stderr + done.stdout


@pytest.mark.parametrize("error", ["KeyError", "ValueError"])
def test_a_rank_that_dies_ends_the_job(tmp_path, error):
    """run_ranks fails on a time-out, so a hang is a failure."""
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "def build(): return torch.nn.Linear(2, 1)\n"
        "def loaders(rank, ranks):\n"
        "    def batches():\n"
        "        for i in range(8):\n"
        f"            if rank == 1 and i == 5: raise {error}('no such sample')\n"
        "            yield torch.randn(4, 2), torch.randn(4, 1)\n"
        "    class Loader:\n"
        "        def __iter__(self): return batches()\n"
        "        def __len__(self): return 8\n"
        "    return {'train': Loader(), 'valid': []}\n"
    )
    (tmp_path / "broken.yaml").write_text(
        "algorithm: {name: local_sgd, lr: 0.1, interval: 4}\n"
        "model: broken:build\n"
        "data: broken:loaders\n"
        "train: {steps: 100, loss: mse_loss}\n"
    )
    command = [HVDCLIP, "train", str(tmp_path / "broken.yaml"), "--run-dir", str(tmp_path / "run")]
    done = run_ranks(command, 2, env={"PYTHONPATH": str(tmp_path)}, timeout=60, check=False)
    assert done.returncode != 0
    assert re.search(rf"rank 1 on host \S+ failed at step 6: {error}: '?no such sample", done.stderr + done.stdout)


CYCLE, FLAGS, BUFFER = "HOROVOD_CYCLE_TIME", "OMPI_MCA_btl_tcp_flags", "OMPI_MCA_btl_tcp_sndbuf"
TCP = {FLAGS: "send,inplace", BUFFER: "262144"}


@pytest.mark.parametrize(
    ("launcher", "given", "seen"),
    [
        ("mpirun", {}, {CYCLE: "0.1"} | TCP),
        ("mpirun", {CYCLE: "2"}, {CYCLE: "2"} | TCP),
        ("horovodrun-gloo", {}, {}),
    ],
)
def test_ranks_run_with_what_suits_them_unless_the_environment_says_otherwise(launcher, given, seen):
    source = f"""
        import os
        from hvdclip.comm import launched
        comm = launched()
        found = {{name: os.environ[name] for name in ({CYCLE!r}, {FLAGS!r}, {BUFFER!r}) if name in os.environ}}
        assert comm.gather(found) == [{seen!r}] * 2
        """
    python_ranks(source, 2, launcher, env=given)


LATE = """
import time
import horovod.torch as hvd
import torch
import hvdclip

hvd.init()
model = torch.nn.Linear(1, 1, bias=False)
optimizer = hvdclip.optimizer("decentralized_clip", model, lr=0.1, tau=1.0)
model.weight.data.fill_(hvd.rank())  # which steps without a gradient only mix
for step in range(5):
    if step == 4 and hvd.rank() == 2:
        time.sleep(3)  # rank 0, which is no neighbour, is through its last step by then
    optimizer.zero_grad()
    (0 * model(torch.ones(1, 1))).sum().backward()
    optimizer.step()
print("THROUGH", hvd.rank(), model.weight.item(), time.time(), flush=True)
"""


def test_the_first_rank_to_end_waits_for_those_that_still_send_to_neighbours():
    """At its end it shuts down Horovod, and with it MPI, on all ranks."""
    done = python_ranks(LATE, 4)
    ends = {int(rank): (float(x), float(at)) for rank, x, at in re.findall(r"THROUGH (\d) (\S+) (\S+)", done.stdout)}
    mix = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]) / 3
    expected = np.linalg.matrix_power(mix, 5) @ np.arange(4)
    assert [ends[rank][0] for rank in range(4)] == pytest.approx(expected, rel=1e-5)
    assert ends[2][1] - ends[0][1] > 2, "rank 0 was through long before rank 2"
