"""Runs read for tables and pictures; those that differ in the seed only belong together."""

import io

import numpy as np
import pytest
from rich.console import Console

from hvdclip.report import plot, runs, table
from hvdclip.training.recorder import FileRecorder
from hvdclip.training.rundir import RunDirectory


def write(folder, seed, losses, algorithm="celgc", ranks=2):
    run = RunDirectory(folder)
    run.create()
    run.write_config({"algorithm": {"name": algorithm, "interval": 4}, "train": {"steps": 8, "seed": seed}})
    recorder = FileRecorder(run, tensorboard=False, say=print)
    for number, loss in enumerate(losses, start=1):
        line = {"step": 4 * number, "round": number, "samples": 80 * number, "loss": loss, "clip_fraction": 0.5}
        recorder.metrics(line | {"drift": None, "bytes": 1000, "round_s": 0.1})
        recorder.evaluation({"step": 4 * number, "split": "valid", "loss": loss + 1})
    final = {"valid": {"step": 4 * len(losses), "loss": losses[-1] + 1}}
    totals = {"rounds": len(losses), "bytes": 1000 * len(losses), "seconds": 0.2, "comm_s": 0.1}
    run.write_summary({"algorithm": algorithm, "ranks": ranks, "final": final, "exit": "done"} | totals)
    return folder


def shown(found):
    console = Console(file=io.StringIO(), width=150)
    console.print(table.table(found))
    return console.file.getvalue()


def test_runs_that_differ_in_the_seed_only_are_one_with_a_spread(tmp_path):
    paths = [write(tmp_path / str(seed), seed, [3.0 + seed, 1.0 + seed]) for seed in (1, 2, 3)]
    paths.append(write(tmp_path / "naive", 1, [5.0, 4.0], algorithm="naive_parallel_clip"))
    found = runs.read(paths)
    assert [(run.label, len(run.summaries)) for run in found] == [
        ("celgc, I = 4", 3),
        ("naive_parallel_clip, I = 4", 1),
    ]
    np.testing.assert_array_equal(found[0].series("loss"), [[4, 2], [5, 3], [6, 4]])
    np.testing.assert_array_equal(found[0].at_evaluations(found[0].total("bytes")), [[1000, 2000]] * 3)
    assert "4.0000 ± 1" in shown(found) and "5.0000 " in shown(found)
    assert {file.name for file in plot.plot(found, tmp_path / "out")} == {"comparison.png", "comparison.svg"}


def test_other_ranks_are_other_runs(tmp_path):
    paths = [write(tmp_path / "two", 1, [3.0, 2.0]), write(tmp_path / "four", 1, [3.0, 1.0], ranks=4)]
    assert [run.label for run in runs.read(paths)] == ["celgc, I = 4, N = 2", "celgc, I = 4, N = 4"]


def test_curves_end_with_the_shortest_run(tmp_path):
    paths = [write(tmp_path / "a", 1, [4.0, 3.0, 2.0]), write(tmp_path / "b", 2, [5.0, 3.0])]
    (run,) = runs.read(paths)
    np.testing.assert_array_equal(run.series("loss"), [[4, 3], [5, 3]])
    plot.plot([run], tmp_path / "out")


def test_a_run_that_failed_is_refused(tmp_path):
    run = RunDirectory(tmp_path / "failed")
    run.create()
    run.write_summary({"exit": "the gradient is not finite on rank 1"})
    with pytest.raises(ValueError, match="holds a run that failed: the gradient is not finite on rank 1"):
        runs.read([tmp_path / "failed"])
