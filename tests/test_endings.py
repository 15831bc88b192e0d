"""What heartbeats, locks and patience say, without ranks."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

import hvdclip
from hvdclip.cli import main
from hvdclip.comm import Ledger, Pending
from hvdclip.training import heartbeats, lock, watch
from hvdclip.training.feed import Feed
from hvdclip.training.heartbeats import Beat, ending
from hvdclip.training.patience import Hunger, Patience
from hvdclip.training.rundir import RunDirectory
from hvdclip.training.watch import asked_by


def beat(rank, step=8, time=100.0, **more):
    return Beat(rank, f"n{rank}", 10 + rank, step, step // 4, time, **{"state": "training"} | more)


@pytest.mark.parametrize(
    ("beats", "kind", "text"),
    [
        ([beat(0, ended="done"), beat(1, ended="done")], "done", "done at step 8"),
        ([beat(0, ended="stopped"), beat(1, ended="stopped", signal="SIGTERM")], "stopped", "stopped at step 8"),
        # killed, and mpirun then ended the other
        (
            [beat(0, 12, signal="SIGTERM"), beat(1)],
            "died",
            "died: rank 1 on n1 was killed or its node lost; last seen at step 8",
        ),
        # killed, and the other's connection broke
        (
            [beat(0, 12, ended="lost: HorovodInternalError: shut down"), beat(1)],
            "died",
            "died: rank 1 on n1 was killed or its node lost; last seen at step 8",
        ),
        # all at once: no one can tell who was first
        (
            [beat(0), beat(1, time=100.9), beat(2, time=109.0)],
            "died",
            "died: rank 0 on n0, rank 1 on n1 were killed or their nodes lost; last seen at step 8",
        ),
        # a stopped process that the launcher woke to end it
        (
            [beat(0, ended="lost: waited 61 s"), beat(1, signal="SIGTERM")],
            "died",
            "died: rank 0 on n0 lost the others at step 8: waited 61 s",
        ),
        (
            [beat(0, signal="SIGTERM", time=101.0), beat(1, signal="SIGTERM")],
            "died",
            "died: rank 1 on n1 got SIGTERM at step 8 and was killed before it had stopped",
        ),
        # the first failure is the cause, whatever came of it
        (
            [beat(0, ended="failed: B", time=101.0), beat(1, ended="failed: A: a"), beat(2), beat(3, ended="lost: c")],
            "failed",
            "failed: rank 1 on n1 at step 8: A: a",
        ),
    ],
)
def test_how_a_run_ended_is_told_from_last_beats(beats, kind, text):
    assert ending(beats) == (kind, text)


def test_beats_are_files_that_survive_half_a_write(tmp_path):
    assert heartbeats.how_it_ended(tmp_path) == ""
    heartbeats.clear(tmp_path)
    for number in (1, 0):
        heartbeats.write(tmp_path, beat(number, ended="stopped"))
    (tmp_path / "heartbeats/rank-00002.json").write_text('{"rank": 2, "ho')
    assert heartbeats.read(tmp_path) == [beat(0, ended="stopped"), beat(1, ended="stopped")]
    assert heartbeats.how_it_ended(tmp_path) == "the last attempt stopped at step 8"
    heartbeats.clear(tmp_path)
    assert heartbeats.read(tmp_path) == []


# one live run a directory

HOLD = """
import sys, time
from pathlib import Path
from hvdclip.training import lock
held = lock.claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_directory_is_its_live_runs_and_nobodys_after_its_death(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileExistsError, match=rf"by a running run: rank 0 on \S+, pid {holder.pid}, since 20"):
            lock.claim(tmp_path)
        assert f"pid {holder.pid}" in lock.user(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    assert lock.user(tmp_path) is None
    with lock.claim(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_rank_0_of_another_host_is_alive_while_its_heart_beats(tmp_path):
    elsewhere = {"state": "training", "host": "another"}
    heartbeats.clear(tmp_path)

    def last_beat(**more):
        said = {"step": 4, "round": 1, "time": time.time()} | elsewhere | more
        heartbeats.write(tmp_path, Beat(0, pid=7, **said))

    last_beat(time=time.time() - 20)
    assert lock.user(tmp_path) is None, "silent for longer than a live rank is"
    last_beat(ended="done")
    assert lock.user(tmp_path) is None
    last_beat(time=time.time() - 14)
    start = time.monotonic()
    assert lock.user(tmp_path) is None and time.monotonic() - start < 8, "no beat came while it was waited for"
    last_beat()
    beats = threading.Timer(1.0, lambda: last_beat(step=8, round=2))
    beats.start()
    assert lock.user(tmp_path) is not None
    beats.join()


def test_where_files_cannot_be_locked_heartbeats_decide_alone(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with lock.claim(tmp_path):
        pass
    heartbeats.clear(tmp_path)
    heartbeats.write(tmp_path, Beat(0, os.uname().nodename, 7, 4, 1, time.time() - 13, "training"))
    start = time.monotonic()
    with lock.claim(tmp_path):
        assert 1 < time.monotonic() - start < 5, "until that beat is 15 s old"


# patience


def wait(patience, pending, seconds):
    patience.ledger.pending = pending
    for _ in range(seconds + 1):
        patience.pass_time(1.0)
    return patience.is_out


def test_a_rank_is_waited_for_ten_times_as_long_as_work_takes():
    assert not wait(Patience(Ledger(), None), Pending("round", 0.1), 60)
    assert wait(Patience(Ledger(), None), Pending("round", 0.1), 61)
    assert not wait(Patience(Ledger(), None), Pending("round", 30.0), 300), "this rank itself has worked for 30 s"
    assert wait(Patience(Ledger(), None), Pending("round", 30.0), 301)
    ledger = Ledger()
    ledger["round"].longest, ledger["evaluation"].longest = 20.0, 500.0
    assert not wait(Patience(ledger, None), Pending("round", 0.1), 200)
    assert wait(Patience(ledger, None), Pending("round", 0.1), 201), "evaluations are another matter"
    assert not wait(Patience(Ledger(), None), Pending("setup", 0.1), 600), "one reads files that others have in memory"
    assert wait(Patience(ledger, 5.0), Pending("round", 30.0), 6), "what is set is what counts"


def test_each_collective_is_waited_for_anew():
    patience = Patience(Ledger(), 5.0)
    for _ in range(3):
        assert not wait(patience, Pending("round", 0.1), 5)
        assert not wait(patience, None, 1)


def test_the_ledger_knows_what_is_pending_and_the_longest_stretch():
    ledger = Ledger()
    time.sleep(0.02)
    ledger.begin("round")
    assert ledger.pending.purpose == "round" and ledger.pending.worked >= 0.02
    time.sleep(0.01)
    assert ledger.end("round", 1, 4).bytes == 4
    assert ledger.pending is None and 0.03 <= ledger["round"].longest < 1


def test_an_error_out_of_a_collective_is_known_as_such():
    def meet(comm):
        try:
            comm.gather(None, purpose=f"of rank {comm.rank}")  # simulated ranks do not meet in it
        finally:
            pending.append(comm.ledger.pending)

    pending = []
    with pytest.raises(RuntimeError, match="do not meet"):
        hvdclip.simulate(meet, 2)
    assert len(pending) == 2 and all(one.purpose.startswith("of rank") for one in pending)


def test_late_ranks_are_those_that_do_not_wait_or_are_silent(monkeypatch):
    monkeypatch.setattr(watch.time, "time", lambda: 100.0)
    waiting = {"waits": "round", "time": 99.0}
    beats = [beat(0, **waiting), beat(1, time=99.5), beat(2, 6, waits="round", time=20.0)]
    assert watch._late(beats, me=0, waited=60.0) == (
        "late: rank 1 on n1, last seen 0 s ago at step 8; rank 2 on n2, last seen 80 s ago at step 6"
    )
    assert watch._late([beat(n, **waiting) for n in range(3)], 0, 60.0) == "all ranks wait: is a link between them cut?"


def test_a_late_rank_that_waits_for_data_is_known_as_such(monkeypatch):
    monkeypatch.setattr(watch.time, "time", lambda: 100.0)
    beats = [beat(0, waits="round", time=99.0), beat(1, time=99.5, state=watch.HUNGRY)]
    late = "late: rank 1 on n1, last seen 0 s ago at step 8, waiting for a batch"
    assert watch._late(beats, me=0, waited=60.0) == late


def hungry(seconds, timeout=None, asked=False, longest=0.0):
    feed = Feed()
    feed.longest = longest
    hunger, told = Hunger(feed, timeout), 0
    with feed.awaited():
        for _ in range(seconds + 1):
            hunger.pass_time(1.0, asked)
            told += hunger.is_to_be_told()
    return hunger.is_out, told


def test_a_batch_is_waited_for_as_long_as_files_may_take_and_told_once():
    assert hungry(29) == (False, 0) and hungry(31) == (False, 1) and hungry(600) == (False, 1)
    assert hungry(601) == (True, 1)
    assert hungry(900, longest=90.0) == (False, 1) and hungry(901, longest=90.0) == (True, 1)
    assert hungry(5, timeout=5.0) == (False, 0) and hungry(6, timeout=5.0)[0], "what is set is what counts"
    assert not hungry(9, asked=True)[0] and hungry(11, asked=True)[0], "asked to stop it is in vain much sooner"
    assert not hungry(39, asked=True, longest=20.0)[0] and hungry(41, asked=True, longest=20.0)[0]


def test_each_batch_is_waited_for_anew():
    feed = Feed()
    hunger = Hunger(feed, 5.0)
    for number in feed.each(iter(range(3))):
        hunger.pass_time(100.0, True)
        assert not hunger.is_out and not hunger.is_felt, number
        with feed.awaited():
            for _ in range(5):
                hunger.pass_time(1.0, False)
        assert hunger.waited == 4 and hunger.is_felt == feed.waits


def test_what_a_worker_says_last_is_known_to_its_rank(capfd):
    feed = Feed()
    assert feed.said == ""
    pid = os.fork()
    if pid == 0:
        feed.listen()
        print("much of it\n" * 1000 + "OSError: AF_UNIX path too long", file=sys.stderr, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    assert feed.said == "OSError: AF_UNIX path too long"
    assert capfd.readouterr().err.endswith("much of it\nOSError: AF_UNIX path too long\n")


def test_who_has_asked_for_a_stop():
    assert asked_by([None, "SIGTERM", None]) == "SIGTERM on rank 1"
    assert asked_by(["SIGINT", "SIGTERM", "SIGTERM"]) == "SIGINT on rank 0 and SIGTERM on ranks 1, 2"
    assert asked_by(["SIGUSR2"] * 3) == "SIGUSR2 on all 3 ranks"
    assert asked_by(["STOP", None]) == "the file STOP"


# status


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    heartbeats.clear(tmp_path)
    return tmp_path


def requeue(run):
    done = CliRunner().invoke(main, ["status", "--requeue", str(run)])
    return done.exit_code, done.output.strip()


def test_a_batch_script_is_told_whether_to_requeue(run):
    heartbeats.write(run, beat(0, ended="stopped"))
    RunDirectory(run).write_summary({"exit": "stopped by SIGUSR2 on rank 0 at step 8"})
    nothing = "no requeue: stopped by SIGUSR2 on rank 0 at step 8; no checkpoint to resume from"
    assert requeue(run) == (1, nothing)
    saved = run / "checkpoints/step-00000008"
    saved.mkdir(parents=True)
    (saved / "manifest.json").write_text("")
    text = "stopped by SIGUSR2 on rank 0 at step 8; resumable from step 8"
    assert requeue(run) == (0, f"requeue: {text}")
    shown = CliRunner().invoke(main, ["status", str(run)])
    assert shown.exit_code == 0 and shown.output.splitlines()[0] == text and " n0 " in shown.output
    heartbeats.write(run, beat(0))
    assert requeue(run)[0] == 0, "killed"
    heartbeats.write(run, beat(0, ended="failed: NonFiniteGradient: the loss"))
    assert requeue(run) == (1, "no requeue: failed: rank 0 on n0 at step 8: NonFiniteGradient: the loss")
    heartbeats.write(run, beat(0, ended="done"))
    assert requeue(run) == (1, "no requeue: done at step 8")


def test_only_a_live_run_is_asked_to_stop(run, tmp_path_factory):
    heartbeats.write(run, beat(0, ended="done"))
    refused = CliRunner().invoke(main, ["stop", str(run)])
    assert refused.exit_code == 2 and "is not running: done at step 8" in refused.output and not (run / "STOP").exists()
    for command in ("stop", "status"):
        nothing = CliRunner().invoke(main, [command, str(tmp_path_factory.mktemp("empty"))])
        assert nothing.exit_code == 2 and "has no run: there is no config.yaml in it" in nothing.output
