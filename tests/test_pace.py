"""Each rank's seconds of own work, told to all in the round's message."""

import time

import pytest
import torch

import hvdclip
from hvdclip.comm.base import Ledger
from hvdclip.messages import pace


def test_a_pace_leaves_out_what_is_waited_for_and_what_is_paused(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    ledger = Ledger()
    watch = pace.Pace(ledger)
    now[0] += 3
    ledger.begin("round")
    now[0] += 5
    ledger.end("round", 1, 8)
    now[0] += 1
    with watch.paused():
        now[0] += 7
        ledger.begin("evaluation")
        now[0] += 2
        ledger.end("evaluation", 1, 8)
    assert watch.lap() == pytest.approx(4)
    now[0] += 6
    watch.restart()
    now[0] += 2
    assert watch.lap() == pytest.approx(2)


def test_ranks_wait_for_the_slowest_one():
    assert pace.waits([1.0, 4.0, 1.0]) == {"waiting_s": 2.0, "slowest": 1}
    assert pace.waits([]) == {"waiting_s": None, "slowest": None}


@pytest.mark.parametrize("settings", [{"name": "celgc", "interval": 2}, {"name": "naive_parallel_clip"}])
def test_all_ranks_know_who_was_slow(settings):
    """Simulated ranks take turns, and a turn of another rank's is no work of one's own."""

    def run(comm):
        torch.manual_seed(comm.rank)
        model = torch.nn.Linear(3, 1)
        optimizer = hvdclip.optimizer(**settings, model_or_params=model, lr=0.1, gamma=1.0, comm=comm)
        rounds = []
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            time.sleep(0.2 if comm.rank == 1 else 0.0)
            with optimizer.averaged():
                time.sleep(0.3 if comm.rank == 2 else 0.0)
            optimizer.step()
            if optimizer.steps_in_round == 0:
                rounds.append(optimizer.last_round | {"worked": optimizer.statistics.worked})
        return rounds

    of_ranks = hvdclip.simulate(run, ranks=3)
    for zeroth, *others in zip(*of_ranks, strict=True):
        assert all(other["worked"] == zeroth["worked"] for other in others)
        assert zeroth["worked"][1] >= 0.2 * settings.get("interval", 1), "as long as it slept"
        assert zeroth["worked"][zeroth["slowest"]] == max(zeroth["worked"])
        assert zeroth["waiting_s"] == pytest.approx(max(zeroth["worked"]) - sum(zeroth["worked"]) / 3)
    worked = [sum(of_rank) for of_rank in zip(*(row["worked"] for row in of_ranks[0]), strict=True)]
    assert worked[1] == max(worked), "another rank's turn, and its evaluations, are no work of one's own"
