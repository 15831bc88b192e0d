"""Checkpoints on disk: written beside and renamed, pruned, checked; what damage and full disks do."""

import contextlib
import os
import re
import shutil
import time

import pytest
import torch
from disks import file_system
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hvdclip
from hvdclip.checkpoints import durable, tensors
from hvdclip.checkpoints.copies import on_host
from hvdclip.checkpoints.store import Damage, Store
from hvdclip.checkpoints.writer import Contents, Writer
from hvdclip.comm import SingleRank
from hvdclip.training.checkpointing import MODEL, rank_file
from hvdclip.training.lines import Lines
from hvdclip.training.resume import find, prepare
from hvdclip.training.rundir import CONFIG, EVALS, METRICS, RunDirectory

RANKS, STEPS = 2, (10, 20, 30)


def contents(rank, step, floats=100, lines=None):
    """What a rank hands over; its numbers tell step and rank."""
    state = {"x": [torch.full((floats,), step + rank / 10)], "evaluations": [{"loss": 0.5}]}
    handed = Contents(step, step // 2, {rank_file(rank): state})
    if rank == 0:
        handed.tensors = {MODEL: {"weight": torch.full((floats,), float(step))}, **handed.tensors}
        handed.texts = {CONFIG: f"train: {{steps: {step}}}\n"}
        handed.lines = {} if lines is None else {lines / name: 10 * step for name in (METRICS, EVALS)}
    return handed


def write(run, said, steps=STEPS, keep=3, ranks=RANKS, **how):
    """Checkpoints of these steps, by as many simulated ranks."""

    def one(comm):
        writer = Writer(run.checkpoints, comm, keep, said.append)
        for step in steps:
            writer.settle()
            writer.start(contents(comm.rank, step, **how))
        writer.finish()
        return writer.saved, writer.failed

    return hvdclip.simulate(one, ranks)[0]


@pytest.fixture
def run(tmp_path):
    """A run directory with checkpoints of three steps, on two ranks."""
    made, said = RunDirectory(tmp_path / "run"), []
    made.create()
    made.write_config("train: {steps: 30}")
    for name in (METRICS, EVALS):
        (made.path / name).write_text("x" * 9 + "\n" + "y" * 300)
    assert write(made, said, lines=made.path) == (3, 0) and not said
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def found(run, ranks=RANKS):
    """What each of so many ranks goes on from; the same on all."""
    everyone = hvdclip.simulate(lambda comm: find(run, run.checkpoints.steps(), comm), ranks)
    assert all(one == everyone[0] for one in everyone)
    return everyone[0]


# whole ones


def test_what_was_handed_over_is_what_is_read(run):
    assert names(run.checkpoints.path) == ["step-00000010", "step-00000020", "step-00000030"]
    assert names(run.checkpoints.folder(20)) == [CONFIG, "manifest.json", MODEL, rank_file(0), rank_file(1)]
    manifest = run.checkpoints.manifest(20)
    assert (manifest.step, manifest.round, manifest.ranks) == (20, 10, 2)
    assert manifest.lines == {METRICS: 200, EVALS: 200}
    for rank in range(RANKS):
        state = tensors.load(run.checkpoints.folder(20) / rank_file(rank))
        assert torch.equal(state["x"][0], torch.full((100,), 20 + rank / 10)) and state["evaluations"][0]["loss"] == 0.5
    assert found(run).manifest.step == 30 and not found(run).damaged
    assert found(run, ranks=3).manifest.step == found(run, ranks=1).manifest.step == 30, "other ranks check all files"


def test_the_oldest_are_removed(run):
    said = []
    assert write(run, said, (40, 50), keep=2) == (2, 0) and not said
    assert run.checkpoints.steps() == [50, 40] and names(run.checkpoints.path) == ["step-00000040", "step-00000050"]


def test_a_name_in_a_checkpoint_keeps_its_file_when_the_name_is_given_away(tmp_path):
    store, best = Store(tmp_path / "checkpoints"), tmp_path / "best.pt"
    durable.write_text(best, "old")
    writer = Writer(store, SingleRank(), 2, print)
    handed = contents(0, 10)
    handed.links = {"best.pt": best}
    writer.start(handed)
    durable.write_text(best, "new")
    writer.finish()
    assert (store.folder(10) / "best.pt").read_text() == "old" and best.read_text() == "new"
    store.check(store.manifest(10), ["best.pt"])


def test_training_waits_for_a_copy_only(tmp_path):
    """The state may move on while it is written: what is read is what it was."""
    run = RunDirectory(tmp_path)
    x = torch.zeros(4_000_000)
    writer = Writer(run.checkpoints, SingleRank(), 2, print)
    handed = Contents(1, 1, {rank_file(0): on_host({"x": x})})
    start = time.perf_counter()
    writer.start(handed)
    begun = time.perf_counter() - start
    x.fill_(7.0)
    writer.finish()
    assert begun < 0.5 * (time.perf_counter() - start)
    assert tensors.load(run.checkpoints.folder(1) / rank_file(0))["x"].abs().max() == 0


def test_nothing_in_a_file_is_executed(run):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(run.path / "executed"),)

    torch.save(Evil(), run.checkpoints.folder(30) / rank_file(0))
    with pytest.raises(Exception, match="Weights only load failed"):
        tensors.load(run.checkpoints.folder(30) / rank_file(0))
    assert not (run.path / "executed").exists()


# damage


def flip(file, place=None, bit=0):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1 << bit
    file.write_bytes(content)


def truncate(file):
    os.truncate(file, file.stat().st_size - 1)


DAMAGE = {
    "truncated": (lambda f: truncate(f / rank_file(1)), r"rank-00001.pt has \d+ bytes instead of \d+"),
    "empty": (lambda f: os.truncate(f / rank_file(0), 0), r"rank-00000.pt has 0 bytes instead of \d+"),
    "flipped": (lambda f: flip(f / rank_file(1)), r"rank-00001.pt is not as it was written \(another SHA-256\)"),
    "model": (lambda f: flip(f / MODEL), "model.pt is not as it was written"),
    "configuration": (lambda f: flip(f / CONFIG), "config.yaml is not as it was written"),
    "missing file": (lambda f: (f / rank_file(1)).unlink(), "rank-00001.pt: No such file"),
    "missing manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "flipped manifest": (lambda f: flip(f / "manifest.json"), "manifest.json is not as it was written"),
    "truncated manifest": (lambda f: truncate(f / "manifest.json"), None),  # a line's end only
    "empty manifest": (lambda f: os.truncate(f / "manifest.json", 0), "manifest.json is not as it was written"),
    "another manifest": (lambda f: (f / "manifest.json").write_text('{"step": [1]}'), "manifest.json is not as it was"),
    "no object": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "manifest.json is not as it was written"),
    "a folder": (lambda f: ((f / MODEL).unlink(), (f / MODEL).mkdir()), "model.pt: Is a directory"),
    "another step's": (
        lambda f: shutil.copyfile(f.with_name("step-00000010") / "manifest.json", f / "manifest.json"),
        "manifest.json is of step 10",
    ),
    "short metrics": (lambda f: os.truncate(f.parent.parent / METRICS, 250), "metrics.jsonl of the run is shorter"),
}


@pytest.mark.parametrize(("do", "named"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, do, named):
    do(run.checkpoints.folder(30))
    for ranks in (1, 2, 3):
        result = found(run, ranks)
        if named is None:
            assert result.manifest.step == 30
            continue
        assert result.manifest.step == 20 and list(result.damaged) == [30]
        assert re.search(named, result.damaged[30])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(run, data):
    store, folder = run.checkpoints, run.checkpoints.folder(30)
    file, manifest = folder / data.draw(st.sampled_from(names(folder))), store.manifest(30)
    content = file.read_bytes()
    flip(file, data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7)))
    try:
        read = store.manifest(30)
        store.check(read, list(manifest.files))
        assert read == manifest and file.name == "manifest.json", "white space, which says nothing"
    except Damage:
        pass
    finally:
        file.write_bytes(content)


def test_where_all_are_damaged_none_is_used(run):
    for step in STEPS:
        flip(run.checkpoints.folder(step) / rank_file(0))
    with pytest.raises(ValueError, match=r"(?s)step 30 is damaged: rank-00000.*step 10 is.*no complete checkpoint"):
        found(run)
    assert run.checkpoints.steps() == [30, 20, 10], "and none is touched"


def test_what_was_being_written_is_removed_and_what_is_damaged_is_set_aside(run):
    flip(run.checkpoints.folder(30) / MODEL)
    run.checkpoints.part(40).mkdir()
    (run.checkpoints.part(40) / rank_file(1)).write_bytes(b"half of i")
    (run.checkpoints.path / "best.pt.part").write_bytes(b"half of i")
    (run.path / "summary.json").write_text("{}")
    prepare(run, found(run), overwrite=True)
    assert names(run.checkpoints.path) == ["step-00000010", "step-00000020", "step-00000030.damaged"]
    assert [(run.path / name).stat().st_size for name in (METRICS, EVALS)] == [200, 200], "cut back"
    assert not run.is_finished()
    said = []
    assert write(run, said, (30,), lines=run.path) == (0, 1) and "metrics.jsonl has 200 bytes; 100 more" in said[0]
    assert write(run, said, (30,)) == (1, 0) and len(said) == 1, "its step may be saved again"
    assert found(run).manifest.step == 30


def test_a_failed_one_is_removed_after_every_rank_has_done_with_it(run, monkeypatch):
    """What a rank writes into a folder that is being removed stays, and would be taken for part of the next try."""
    done, write_text, rmtree = [], durable.write_text, shutil.rmtree

    def slow(path, text):
        if path.name == "rank-00001.json":
            time.sleep(0.2)
            done.append("noted")
        return write_text(path, text)

    def remove(path, **how):
        done.append("removed")
        rmtree(path, **how)

    monkeypatch.setattr(durable, "write_text", slow)
    monkeypatch.setattr(shutil, "rmtree", remove)
    (run.path / METRICS).write_text("too short")
    said = []
    assert write(run, said, (40,), lines=run.path) == (0, 1) and len(said) == 1
    assert "noted" in done and done[-1] == "removed" and not run.checkpoints.part(40).exists()
    assert write(run, said, (40,)) == (1, 0) and len(said) == 1


# what cannot be written


@pytest.fixture
def small(tmp_path):
    with file_system(tmp_path / "small", "300k") as folder:
        yield folder


def test_a_full_disk_leaves_older_checkpoints_whole_and_is_said_in_one_line(small):
    run, said = RunDirectory(small), []
    write(run, said, (10,), ranks=3)
    assert not said
    saved, failed = write(run, said, (20,), floats=30_000, ranks=3)
    assert (saved, failed) == (0, 1) and len(said) == 1
    assert re.fullmatch(
        r"the checkpoint of step 20 is not saved: rank \d on \S+: \S+rank-0000\d.pt: No space left on device; the "
        r"newest complete one is of step 10; training continues",
        said[0],
    )
    assert names(run.checkpoints.path) == ["step-00000010"], "and what was written of it is gone"
    assert write(run, said, (30,), ranks=3) == (1, 0) and len(said) == 1, "there is room again"
    assert found(run, ranks=3).manifest.step == 30


def test_one_rank_that_cannot_write_is_enough(tmp_path):
    """Whether or not it can leave a note of it."""
    run, said = RunDirectory(tmp_path), []
    write(run, said, (10,))
    for step, in_the_way in ((20, rank_file(1)), (30, "rank-00001.json")):
        blocked = run.checkpoints.part(step) / f"{in_the_way}.part"
        blocked.mkdir(parents=True)  # neither a file nor removable as one
        if step == 30:
            (blocked.parent / f"{rank_file(1)}.part").mkdir()
        assert write(run, said, (step,)) == (0, 1)
        assert re.match(f"the checkpoint of step {step} is not saved: rank 1 on .*Is a directory", said[-1])
    assert len(said) == 2 and names(run.checkpoints.path) == ["step-00000010"]


def test_a_disk_that_cannot_be_written_to_at_all(tmp_path):
    run, said = RunDirectory(tmp_path), []
    run.checkpoints.path.write_text("a file where the folder should be")
    assert write(run, said, (10, 20)) == (0, 2) and len(said) == 2
    assert all("there is no complete one; training continues" in line for line in said)


def test_lines_that_cannot_be_written_are_kept(small):
    said, lines = [], Lines(small / METRICS, print)
    lines.say = said.append
    lines.append("first")
    fill = small / "fill"
    with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1000))
    for number in range(3):
        lines.append(f"{number}" * 5000)
    assert len(said) == 1 and "No space left on device; its lines are kept" in said[0]
    assert lines.size == 6 + 3 * 5001 and (small / METRICS).read_text().startswith("first")
    fill.unlink()
    lines.append("last")
    assert (small / METRICS).read_text().split() == ["first", *(f"{number}" * 5000 for number in range(3)), "last"]
    assert lines.size == (small / METRICS).stat().st_size and len(said) == 1
