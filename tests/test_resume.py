"""Runs that go on: on real ranks, after kills, to the bit of the run that nobody disturbed; and what is refused."""

import contextlib
import gc
import os
import random
import re
import shutil

import pytest
from command import hvdclip
from disks import file_system
from kills import BILEVEL, HVDCLIP, LANGUAGE, PROBLEM, PROJECT, Job, has_come_to, read
from launch import run_ranks

from hvdclip.training.rundir import RunDirectory

FRAGMENTS = ["averaging=fragments", "fragments=3", "overlap=delayed", "delay=2", "merge_alpha=0.5", "compression=int4"]
STREAMING = [f"algorithm.{setting}" for setting in (*FRAGMENTS, "outer=nesterov", "outer_lr=0.7")]
JOBS = {
    "celgc, language model, streaming": Job("celgc", LANGUAGE, more=STREAMING),
    "celgc, 4 ranks": Job("celgc", PROBLEM, ranks=4),
    "episode": Job("episode", PROBLEM),
    "scaffold": Job("scaffold", PROBLEM),
    "clip21": Job("clip21", PROBLEM),
    "bucket_clip": Job("bucket_clip", LANGUAGE),
    # half of the steps move y only
    "accbo, bilevel": Job("accbo", BILEVEL, more=["algorithm.warm_start=180"]),
}


@pytest.mark.ranks
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_killed_run_goes_on_to_the_bit(tmp_path, job):
    """One rank, whichever, is killed at a random moment."""
    share, victim = random.uniform(0.2, 0.9), random.randrange(job.ranks)
    print(f"rank {victim} is killed at {share:.3f}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    job.train(whole)
    job.kill(killed, victim, has_come_to(share, killed, whole))
    said = job.train(killed, "--resume")
    assert re.search(r"killed continues from step [1-9]", said)
    assert read(killed) == read(whole)


@pytest.mark.ranks
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_that_is_killed_while_it_writes_goes_on_from_the_checkpoint_before(tmp_path, victim):
    job = Job("celgc", LANGUAGE, more=["model.hidden=192", "train.steps=160", "train.evaluate_every_steps=160"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    job.train(whole)
    folder = RunDirectory(killed).checkpoints
    job.kill(killed, victim, lambda: any(folder.path.glob("step-*.part/*")))
    job.train(killed, "--resume")
    assert read(killed) == read(whole)
    assert not list(folder.path.glob("*.part"))


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("algorithm", "more", "every"),
    [("celgc", ["algorithm.overlap=delayed", "algorithm.delay=2"], 4), ("decentralized_clip", [], 10)],
)
def test_rank_0s_clock_saves_all_ranks_at_the_end_of_a_round(tmp_path, algorithm, more, every):
    """Told in the round's message, or where there is none in every tenth step; neither changes anything."""
    plain = [*PROBLEM, "checkpoint=null"]
    Job(algorithm, plain, more=more).train(tmp_path / "whole")
    clock = ["checkpoint.every_minutes=0.003", "checkpoint.keep=1000"]
    Job(algorithm, plain, more=[*more, *clock]).train(tmp_path / "run")
    steps = RunDirectory(tmp_path / "run").checkpoints.steps()
    assert len(steps) > 3 and all(step % every == 0 for step in steps)
    assert read(tmp_path / "run") == read(tmp_path / "whole")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run of 40 steps on one rank, with checkpoints at 16 and 32."""
    run = tmp_path_factory.mktemp("small") / "run"
    train(run)
    return run


@pytest.fixture
def run(small, tmp_path):
    return shutil.copytree(small, tmp_path / "run")


SHORT = ["configs/quadratics.yaml", "data.dimension=5", "train.steps=40", "train.evaluate_every_steps=8"]
SHORT += ["checkpoint.every_steps=16"]


def train(run, *more, ranks=1, check=True):
    line = ["train", *SHORT, *more, "--run-dir", str(run)]
    if ranks == 1:
        return hvdclip(*line, check=check)
    gc.collect()  # with a run inside this process goes its lock
    return run_ranks([HVDCLIP, *line], ranks, "mpirun", cwd=PROJECT, check=check)


def resume(run, *more, **how):
    done = train(run, *more, "--resume", **how)
    return done if how.get("check") is False else done.stdout + done.stderr


def refused(run, *more, **how):
    """The lines of a refusal."""
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file() and "heartbeats" not in str(path)}
    done = resume(run, *more, check=False, **how)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(path.read_bytes() == content for path, content in before.items()), "nothing is touched"
    return [line for line in done.stderr.splitlines() if line.startswith("hvdclip: ")]


def test_a_finished_run_says_so(run):
    said = resume(run)
    assert "has a finished run" in said and read(run)["exit"] == "done"


def test_a_damaged_summary_is_one_line(run):
    for content in ("{}", "[]", "no JSON"):
        (run / "summary.json").write_text(content)
        assert refused(run) == [f"hvdclip: {run} has a run whose summary.json or config.yaml is damaged"]


def test_a_longer_run_is_the_same_as_one_that_was_longer_from_the_start(run, tmp_path):
    said = resume(run, "train.steps=64")
    assert "continues from step 32" in said
    train(tmp_path / "long", "train.steps=64")
    assert read(run) == read(tmp_path / "long")
    best, other = (folder / "checkpoints/best.pt" for folder in (run, tmp_path / "long"))
    assert best.read_bytes() == other.read_bytes()


def test_without_a_checkpoint_it_starts_from_step_0_and_says_so(small, tmp_path):
    assert "has no checkpoint: training starts from step 0" in resume(tmp_path / "new")
    assert read(tmp_path / "new") == read(small)


def test_resume_needs_to_know_of_which_run():
    done = hvdclip("train", *SHORT, "--resume", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--resume needs --run-dir" in done.stderr


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(run, small):
    (run / "summary.json").unlink()
    os.truncate(run / "checkpoints/step-00000032/rank-00000.pt", 100)
    said = resume(run)
    assert re.search(r"step 32 is damaged: rank-00000.pt has 100 bytes instead of \d+; it is set aside", said)
    assert "continues from step 16" in said and read(run) == read(small)
    assert (run / "checkpoints/step-00000032.damaged").exists() and (run / "checkpoints/step-00000032").exists()


def test_a_changed_configuration_is_refused_setting_by_setting(run):
    (run / "summary.json").unlink()
    changes = ["train.seed=2", "algorithm.lr=0.1", "data.noise=1.0", "algorithm.outer=sgd", "algorithm.outer_lr=1.0"]
    lines = refused(run, *changes)
    assert [line.partition(";")[0] for line in lines] == [
        "hvdclip: algorithm.lr: was 0.0004, now 0.1",
        "hvdclip: algorithm.outer: was none, now sgd",
        "hvdclip: algorithm.outer_lr: was None, now 1.0",
        "hvdclip: data.noise: was 3.0, now 1.0",
        "hvdclip: train.seed: was 1, now 2",
    ]
    assert refused(run, "train.steps=24") == ["hvdclip: train.steps is 24, but 32 are done; allowed: from 32"]


def test_what_does_no_harm_may_change(run, small):
    (run / "summary.json").unlink()
    resume(run, "checkpoint.every_steps=4", "checkpoint.keep=1", "log.tensorboard=true", "comm.timeout=100")
    assert read(run) == read(small) and RunDirectory(run).checkpoints.steps() == [36]


@pytest.mark.ranks
def test_another_number_of_ranks_is_said_aloud_or_refused(run):
    (run / "summary.json").unlink()
    said = resume(run, ranks=2)
    assert "it had 1 rank and has 2 now: the data are shared out again" in said
    found = read(run)
    assert [line["step"] for line in found["metrics"]] == list(range(4, 41, 4)) and found["step"] == 40
    assert [line["ranks"] for line in found["metrics"]] == 8 * [1] + 2 * [2]
    momentum = run.parent / "momentum"
    train(momentum, "algorithm.momentum=0.9")
    (momentum / "summary.json").unlink()
    assert refused(momentum, "algorithm.momentum=0.9", ranks=2) == [
        "hvdclip: the run had 1 rank and cannot continue on 2: each rank of celgc keeps its own momentum; "
        "checkpoint.other_ranks: reset starts without it"
    ]
    said = resume(momentum, "algorithm.momentum=0.9", "checkpoint.other_ranks=reset", ranks=2)
    assert "continues from step 32" in said and read(momentum)["step"] == 40


def evaluate(*arguments, check=True):
    done = hvdclip("eval", *arguments, check=check)
    return [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)] if check else done


def test_models_are_evaluated_by_the_run_or_by_their_file(small):
    checkpoints = small / "checkpoints"
    assert evaluate(small, "--model", "last") == evaluate(checkpoints / "step-00000032/model.pt")
    assert evaluate(checkpoints / "final.pt") == evaluate(small) != evaluate(small, "--model", "last")
    for file, wrong in (("rank-00000.pt", "not a state_dict of tensors"), ("config.yaml", "has no model")):
        done = evaluate(checkpoints / "step-00000032" / file, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and wrong in done.stderr


@pytest.fixture
def disk(tmp_path):
    with file_system(tmp_path / "disk", "900k") as folder:
        yield folder


@pytest.mark.ranks
def test_a_full_disk_does_not_end_training(tmp_path, disk):
    """Nor does it harm the checkpoint that is there; with room again the run saves as before, and no line is lost."""
    steps = ["train.steps=1600", "train.evaluate_every_steps=1600", "checkpoint.every_steps=100"]
    job = Job("celgc", PROBLEM, more=["data.dimension=3000", *steps])
    job.train(tmp_path / "whole")
    checkpoints = RunDirectory(disk / "run").checkpoints
    with job.start(disk / "run") as launch:
        while not checkpoints.newest():
            assert launch.process.poll() is None
        with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
        newest = checkpoints.newest()
        said = next(line for line in launch.process.stderr if "is not saved" in line)
        assert re.search(rf"the checkpoint of step \d+ is not saved: .*No space left .* is of step {newest};", said)
        checkpoints.check(checkpoints.manifest(newest), ["model.pt", "rank-00000.pt", "rank-00001.pt"])
        (disk / "fill").unlink()
        launch.finish(120)
    assert checkpoints.newest() == 1500
    assert read(disk / "run") == read(tmp_path / "whole")
