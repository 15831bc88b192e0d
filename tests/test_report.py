"""Runs read for tables and pictures; those that differ in the seed only belong together."""

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from matplotlib import image
from rich.console import Console
from rich.table import Table

from hvdclip.cli import main
from hvdclip.report import plot, runs, table
from hvdclip.report.page import Section
from hvdclip.report.page import write as write_page
from hvdclip.training.recorder import FileRecorder
from hvdclip.training.rundir import RunDirectory


def write(folder, seed, losses, algorithm="celgc", ranks=2):
    run = RunDirectory(folder)
    run.create()
    settings = {"algorithm": {"name": algorithm, "interval": 4}, "train": {"steps": 8, "seed": seed}}
    run.write_config(yaml.safe_dump(settings))
    recorder = FileRecorder(run, None, print)
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
    with pytest.raises(ValueError, match="has a run that is not done: the gradient is not finite on rank 1"):
        runs.read([tmp_path / "failed"])


# pages

CHROMIUM = shutil.which("chromium")
BARE = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
BARE += ["--disable-quic", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages") / "small"
    steps = ["train.steps=80", "train.evaluate_every_steps=20", "algorithm.lr=1e-3"]
    assert (
        CliRunner().invoke(main, ["train", "configs/quadratics.yaml", *steps, "--run-dir", str(place)]).exit_code == 0
    )
    said = CliRunner().invoke(main, ["report", str(place)]).output
    assert said.splitlines() == [f"report: {place}/report/report.{kind}" for kind in ("html", "md")]
    return place


def test_a_page_holds_all_it_shows_and_the_text_names_its_pictures(run):
    page = (run / "report/report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', page), "nothing of it lies elsewhere"
    for data in re.findall(r"data:image/png;base64,([^\"]+)", page):
        assert base64.b64decode(data)[:4] == b"\x89PNG"
    text = (run / "report/report.md").read_text()
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert pictures == ["comparison.png", "rounds.png"] and all((run / "report" / name).exists() for name in pictures)
    summary = json.loads((run / "summary.json").read_text())
    for shown_in in (page, text):
        assert (
            f"{summary['rounds']:,}" in shown_in
            and "lr: 0.001" in shown_in
            and summary["versions"]["torch"] in shown_in
        )
    row = json.loads((run / "evals.jsonl").read_text().splitlines()[0])
    assert f"| 20 | {row['epoch']:.5g} | exact | {row['loss']:.5g} | {row['gradient_norm']:.5g}" in text


def test_what_is_in_a_configuration_is_shown_as_it_is(tmp_path):
    parts = [Section("<b> & 'c'", ["1 < 2"], verbatim="model: <script>alert(1)</script>")]
    write_page("T & U", parts, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;b&gt; &amp;" in page and "T &amp; U" in page
    table_of = Table("a|b", "c")
    table_of.add_row("", "x|y")
    write_page("T", [Section("S", tables=[table_of])], tmp_path / "tables")
    assert "| a\\|b | c |\n| --- | --- |\n|  | x\\|y |" in (tmp_path / "tables/report.md").read_text()
    assert "model: <script>alert(1)</script>" in (tmp_path / "report.md").read_text()


def test_what_is_no_run_or_study_has_no_report(tmp_path):
    refused = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert refused.exit_code == 2 and f"{tmp_path} has no finished run" in refused.output
    (tmp_path / "study.json").write_text("{")
    damaged = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert damaged.exit_code == 2 and "study.json is damaged: it is not JSON" in damaged.output


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"3\n"])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evals.jsonl", "summary.json"])
def test_a_damaged_run_is_named(tmp_path, name, text):
    place = write(tmp_path / "run", 1, [3.0, 2.0])
    (place / name).write_bytes(text)
    for command in ("report", "plot"):
        refused = CliRunner().invoke(main, [command, str(place)])
        assert refused.exit_code == 2 and f"{place / name}" in refused.output and refused.output.count("\n") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH, in which to look at a page")
def test_a_browser_shows_the_page_with_its_pictures(run, tmp_path):
    page, shot = f"file://{run}/report/report.html", tmp_path / "shot.png"
    command = [CHROMIUM, *BARE, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2200"]
    subprocess.run([*command, f"--screenshot={shot}", page], check=True, capture_output=True, timeout=90)
    pixels = image.imread(shot)[..., :3]
    for colour in ("#0072B2", "#D55E00"):
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=-1) < 0.1).sum() > 100, f"no curve in {colour}"
    text = subprocess.run([*command, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=90).stdout
    assert "<h1>Run small</h1>" in text and text.count("<img ") == 2 and "<td>celgc, I = 4</td>" in text
