"""What `hvdclip algorithms` claims of messages, memory and extra gradients is what is measured."""

import gc
import re

import pytest
import torch
from algorithms import ALGORITHMS, OF_ONE_LOSS, has, settings_of
from conftest import PROJECT
from launch import python_ranks
from torch import nn

import hvdclip
from hvdclip.methods import METHODS

INTERVAL, ROUNDS = 4, 6
STEPS = INTERVAL * ROUNDS
P = 100 * 200
LARGE = 10_000_000  # floats


def settings(algorithm):
    """No copies for the drift, and the values of the letters in the algorithm's claims."""
    drift = {"drift": False} if has(algorithm, "drift") else {}
    return {"lr": 0.1} | drift | settings_of(algorithm, ALGORITHMS[algorithm].claimed, interval=INTERVAL)


def floats(claim, algorithm):
    """The number that a claim begins with: 2P, 4P + b, 0, ..."""
    formula = re.match(r"[\dPbk +]+", claim)[0].strip()
    chosen = settings(algorithm)
    letters = {"P": P, "b": chosen.get("width"), "k": chosen.get("k")}
    return eval(re.sub(r"(\d)([Pbk])", r"\1*\2", formula), letters)


def train(comm, algorithm):
    """An optimizer after some rounds, and how often it asked for a gradient."""
    model = nn.Linear(200, 100, bias=False)
    optimizer = hvdclip.optimizer(algorithm, model, comm=comm, **settings(algorithm))
    calls = 0

    def closure(again=False):
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = (model(torch.randn(3, 200)) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    optimizer.zero_grad()
    return model, optimizer, calls


@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_messages_are_as_long_as_claimed(algorithm):
    collectives = ALGORITHMS[algorithm].collectives

    def measured(comm):
        _, optimizer, _ = train(comm, algorithm)
        tally, rounds = comm.ledger["round"], optimizer.rounds
        tails = optimizer.statistics.size + optimizer.buffers.size if collectives else 0
        return tally.bytes / 4 / rounds - tails, tally.collectives / rounds

    claim = METHODS[algorithm].message_size
    # of a ring of two, each rank has one neighbour
    assert hvdclip.simulate(measured, 2) == [(floats(claim, algorithm), collectives)] * 2
    in_rounds = "every I" in claim
    assert in_rounds == has(algorithm, "interval")


@pytest.fixture
def apart():
    """What is there already is left out of what the collector knows, and so takes no time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held():
    """Floats in all tensors that are alive and newer than `apart`."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
    tensors = [tensor for tensor in tensors if tensor.numel()]  # an undefined one of torch 2.4 has no storage
    storages = {(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors}
    end = total = 0
    for start, size in sorted(storages, key=lambda of: (of[0], -of[1])):
        # a parameter's storage lies in that of x
        total += max(0, start + size - max(start, end))
        end = max(end, start + size)
    return total / 4


@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_memory_is_as_much_as_claimed(algorithm, apart):
    kept = train(None, algorithm)
    beside_x = held() - P
    assert abs(beside_x - floats(METHODS[algorithm].memory, algorithm)) < 0.1 * P
    del kept


@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_extra_gradients_are_as_many_as_claimed(algorithm):
    _, _, calls = train(None, algorithm)
    chosen = settings(algorithm)
    anchors = STEPS // chosen.get("anchor_every", STEPS)
    more = chosen.get("anchor_batches", 1) - 1
    expected = {
        "none": 0,
        "none (option I: 1 a round)": 0,
        "1 a round": ROUNDS,
        "1 a step": STEPS,
        "I before the first step": INTERVAL,
        "1 a step; at anchors anchor_batches - 1": STEPS - anchors + more * anchors,
    }
    assert calls - STEPS == expected[METHODS[algorithm].extra_gradients]


PEAKS = f"""
import sys
sys.path.insert(0, {str(PROJECT / "jobs")!r})
from memory import peaks
peaks("local_sgd", {LARGE})  # what the first training alone needs
for case in {list(OF_ONE_LOSS)}:
    print("PEAK", case, max(peaks(case, {LARGE})), sep=";", flush=True)
"""


@pytest.mark.ranks
@pytest.mark.slow
def test_the_peak_of_a_step_is_as_claimed():
    """On two ranks; by what jobs/memory.py measures, with freed memory given back at once."""
    done = python_ranks(PEAKS, 2, timeout=280, env={"MALLOC_MMAP_THRESHOLD_": "65536"}, warm=False)
    found: dict[str, float] = {}
    for name, peak in re.findall(r"^PEAK;(.*);(.*)$", done.stdout, re.MULTILINE):
        found[name] = max(found.get(name, 0), float(peak))
    assert set(found) == set(OF_ONE_LOSS)
    for name, peak in found.items():
        claimed = 2 + floats(METHODS[name].peak, name) / P
        bucket = METHODS[name].Settings.model_fields.get("bucket_mb")
        fixed = (6e6 + (bucket.default * 2**20 if bucket else 0)) / (4 * LARGE)  # this does not grow with the model
        assert 0.95 * claimed <= peak <= 1.05 * claimed + fixed, f"{name}: {peak:.2f} instead of {claimed:.2f}"
