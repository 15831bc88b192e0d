"""What training costs on many ranks: the model, the link, what is predicted; and the view of a run as it goes on."""

import dataclasses
import json
import os
import subprocess
import time

import numpy as np
import pytest
from click.testing import CliRunner
from kills import HVDCLIP, PROJECT
from launch import Launch, run_ranks

from hvdclip.bench.link import fit, sizes
from hvdclip.cli import main
from hvdclip.launch import slurm
from hvdclip.launch.following import Queue, look
from hvdclip.scaling.cost import Link, StepCost
from hvdclip.scaling.fit import Measured, errors, split
from hvdclip.scaling.fit import fit as study_fit
from hvdclip.scaling.links import LINKS, links
from hvdclip.scaling.predict import predict
from hvdclip.scaling.study import Study, interval_of_mean
from hvdclip.scaling.target import Real, Steps, best, steps_to
from hvdclip.simulation.trace import Trace
from hvdclip.training.rundir import RunDirectory

# the model


@pytest.mark.parametrize(
    ("floats", "ranks", "link", "milliseconds"),
    [
        (25.557e6, 16, "10GbE", 153),
        (25.557e6, 16, "25GbE", 61),
        (25.557e6, 16, "HDR200", 7.7),
        (138.36e6, 16, "25GbE", 332),
        (25.557e6, 8, "NVLink3", 0.76),
    ],
)
def test_a_rings_transfer_takes_what_is_computed_by_hand(floats, ranks, link, milliseconds):
    bare = Link(link, LINKS[link].bandwidth, 0.0)
    assert 1e3 * bare.average(ranks, 4 * floats) == pytest.approx(milliseconds, rel=0.02)
    assert LINKS[link].average(ranks, 0) == pytest.approx(2 * np.ceil(np.log2(ranks)) * LINKS[link].latency)
    assert LINKS[link].average(1, 4 * floats) == 0


def test_the_least_interval_that_gets_nearly_all_there_is():
    cost = StepCost(step=0.1, average=0.061)
    assert cost.enough == 12 and cost.bound == pytest.approx(1.61)
    assert cost.gain(12) >= 0.95 * cost.bound > cost.gain(11)
    assert StepCost(0.1, 0.0).enough == 1 and StepCost(0.1, 0.1).enough == 19
    late = StepCost(step=0.1, average=0.01, slack=0.03)
    assert late.bound == pytest.approx(1.4) and late.gain(late.enough) >= 0.95 * late.bound > late.gain(late.enough - 1)
    assert StepCost(0.1, 0.0, 0.03).enough == 33 and StepCost(0.1, 0.0).enough == 1
    assert StepCost(0.1, 0.2).gain(10**9) == pytest.approx(StepCost(0.1, 0.2).bound, rel=1e-6)


def test_waiting_for_whoever_is_late_falls_with_the_root_of_the_interval():
    cost = StepCost(step=1.0, average=0.0, slack=0.2)
    assert cost.at(1) - 1 == pytest.approx(0.2) and cost.at(16) - 1 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("name", "images_s", "batch", "parameters", "published"),
    [("ResNet-101", 130.0, 64, 44.55e6, 0.90), ("VGG-16", 154.0, 64, 138.36e6, 0.68)],
)
def test_published_efficiencies_lie_between_no_overlap_and_a_perfect_one(name, images_s, batch, parameters, published):
    """Horovod's on 512 GPUs over 25 Gbit/s, four P100s a server, which share its link; see docs/scaling.md."""
    (one,) = predict(batch / images_s, 4 * parameters, links("25GbE"), [512])
    none, perfect = one.efficiency(1), one.cost.step / one.cost.overlapped(2 / 3)
    assert none < published < perfect + 0.01, (none, perfect)


# the link


def test_the_fit_finds_latency_and_bandwidth_again():
    seconds = {size: 30e-6 + 1.5 * size / 1.25e9 for size in sizes(64)}
    found = fit(4, seconds)
    assert found.alpha == pytest.approx(30e-6, rel=1e-6) and found.bandwidth == pytest.approx(1.25e9, rel=1e-6)
    assert found.error < 1e-9
    noisy = {size: t * (1 + 0.1 * (-1) ** k) for k, (size, t) in enumerate(seconds.items())}
    assert fit(4, noisy).error == pytest.approx(0.1, abs=0.03)
    assert fit(2, {4: 1e-9, 1000: 1e-3, 4000: 5e-3}).alpha >= 0


def test_sizes_are_four_bytes_to_256_mib():
    assert sizes(256)[0] == 4 and sizes(256)[-1] == 256 * 2**20 and len(sizes(256)) == 14


@pytest.mark.ranks
def test_bench_link_measures_both_ways_on_real_ranks(tmp_path):
    file = tmp_path / "link.json"
    done = run_ranks([HVDCLIP, "bench", "link", "--largest", "0.1", "--blocks", "2", "--json", str(file)], 2)
    found = json.loads(file.read_text())
    for way in ("hvdclip", "mpi4py"):
        of_way = found["fits"][way]
        assert of_way["alpha_s"] >= 0 and of_way["bandwidth"] > 0 and f"{way}: latency" in done.stdout
        assert of_way["median_error"] == pytest.approx(np.median(np.abs(list(of_way["errors"].values()))))
        times = {int(size): found["peers"][f"{way}, {size} bytes"]["median"] for size in of_way["errors"]}
        again = fit(2, times)
        assert (again.alpha, again.bandwidth) == pytest.approx((of_way["alpha_s"], of_way["bandwidth"]))


def test_one_rank_has_no_link():
    refused = CliRunner().invoke(main, ["bench", "link"])
    assert refused.exit_code == 2 and "one rank has no link to measure: start several with mpirun" in refused.output


# a study


def test_the_model_is_found_again_and_held_against_what_it_was_not_shown():
    """Points made by the model itself, of a ring over a known link, with stragglers."""
    payload, step, slack = 4e6, {1: 0.1, 2: 0.1, 4: 0.15}, {1: 0.0, 2: 0.01, 4: 0.02}
    link = Link("known", 1e8, 1e-3)
    points = [
        Measured(n, i, StepCost(step[n], link.average(n, payload), slack[n]).at(i), step[n], slack[n] / i**0.5, payload)
        for n in step
        for i in (1, 4, 16)
    ]
    fitted, held_out = split(points)
    assert {p.interval for p in fitted} == {1, 16} and {p.interval for p in held_out} == {4}
    model = study_fit(fitted)
    assert max(map(abs, errors(model, held_out))) < 1e-9
    for n, cost in model.costs.items():
        assert cost.step == pytest.approx(step[n]) and cost.slack == pytest.approx(slack[n], abs=1e-9)
    assert model.alpha == pytest.approx(1e-3, rel=1e-6) and model.bandwidth == pytest.approx(1e8, rel=1e-6)
    assert model.link_error < 1e-9
    alone = [dataclasses.replace(p, payload=0.0) if p.ranks == 1 else p for p in fitted]
    assert study_fit(alone) == model, "one rank without a launcher hands over nothing"
    slower = [dataclasses.replace(p, seconds=1.2 * p.seconds) for p in held_out]
    assert errors(model, slower) == pytest.approx([1 / 1.2 - 1] * 3)


def test_what_a_fit_would_make_negative_is_zero():
    noisy = [Measured(2, 1, 0.099, 0.1, 0.0, 1e6), Measured(2, 16, 0.101, 0.1, 0.0, 1e6)]
    cost = study_fit(noisy).costs[2]
    assert cost.average == cost.slack == 0
    round_too = [Measured(2, i, 0.1 + 0.02 / i, 0.1 + 0.02 / i, 0.0, 1e6) for i in (1, 16)]
    cost = study_fit(round_too).costs[2]
    assert cost.step == 0.1 + 0.02 / 16 and cost.average == pytest.approx(0.02, rel=0.1), "own work of a round"
    falling = [Measured(n, i, 0.1 + c / i, 0.1, 0.0, 1e6) for n, c in ((2, 0.02), (3, 0.01)) for i in (1, 16)]
    assert study_fit(falling).alpha == 0 or study_fit(falling).bandwidth is None


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = interval_of_mean(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.1) and low < values.mean() < high


@pytest.mark.ranks
def test_a_study_runs_from_one_command_and_adds_up(tmp_path):
    """On a small problem, whose ranks really meet; parts add up, and what is derived follows from what is raw."""
    out = tmp_path / "study"
    command = ["bench", "scaling", "configs/quadratics.yaml", "--ranks", "2", "--intervals", "1,2,8", "--synthetic"]
    done = subprocess.run(
        [HVDCLIP, *command, "--steps", "8", "--blocks", "3", "--out", str(out)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = Study.read(out)
    assert [(row.ranks, row.interval, row.data) for row in found.rows] == [
        (2, i, data) for data in ("real", "synthetic") for i in (1, 2, 8)
    ]
    for row in (*found.rows, *found.alone):
        for block, seconds in enumerate(row.found["seconds"]):
            parts = {part: of_blocks[block] for part, of_blocks in row.found["parts"].items()}
            assert all(part >= 0 for part in parts.values())
            if row in found.alone:
                assert sum(parts.values()) == pytest.approx(seconds), "one rank waits for nobody"
            elif parts["communication"] > 0:
                assert sum(parts.values()) <= seconds * 1.0001, "the mean over ranks of what the slowest one takes"
        assert (row.bytes_a_sample > 0) == (row in found.rows) and row.wire_a_sample >= 0
    two = {row.interval: row for row in found.rows if row.ranks == 2 and row.data == "real"}
    assert two[1].bytes_a_sample == pytest.approx(8 * two[8].bytes_a_sample)
    for data in ("real", "synthetic"):
        row = next(row for row in found.rows if (row.ranks, row.interval, row.data) == (2, 8, data))
        alone = np.concatenate([each.rates for each in found.alone if each.data == data])
        assert found.efficiency(row) == pytest.approx(np.median(row.rates) / (2 * np.median(alone)))
    assert [made["threads"] for made in found.made["ranks"].values()] == [found.made["alone"]["threads"]] == [1]
    assert found.held_out == {(2, 2)} and f"held out: {found.error:.1%}" in done.stdout
    assert (out / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    step, payload = found.model.costs[2].step, two[1].payload
    said = CliRunner().invoke(main, ["predict", "--study", str(out), "--links", "1:0", "--ranks", "512"]).output
    average = 2 * 511 / 512 * payload / 1.25e8
    cells = [cell.strip() for line in said.splitlines() if line.startswith("│") for cell in line.split("│")]
    assert {f"{1e3 * average:.3g}", f"{1 + average / step:.2f}"} <= set(cells)
    assert CliRunner().invoke(main, ["report", str(out)]).exit_code == 0
    text = (out / "report/report.md").read_text()
    assert f"held out: {found.error:.1%}" in text and "2 | " in text.partition("## Hosts")[2]
    _hold_against_real_runs(out, found, tmp_path / "target")
    _add_one_rank(out, found, command[: command.index("--ranks")])


def _hold_against_real_runs(out, study, folder):
    """Real ranks take the very steps that simulated ones do."""
    job = ["configs/quadratics.yaml", "train.steps=2000", "train.evaluate_every_steps=100", "--loss", "3", "--real"]
    command = ["bench", "target", *job, "--intervals", "1,8", "--seeds", "1", "--study", str(out), "--out", str(folder)]
    done = subprocess.run([HVDCLIP, *command], cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("│").split("│") for line in done.stdout.splitlines() if line.startswith("│ 2")]
    for (_, interval, simulated, _, seconds, steps, taken, off), expected in zip(rows, (1, 8), strict=True):
        assert int(interval) == expected and steps.strip() == simulated.strip() != "never"
        run = folder / f"real-ranks=2-interval={expected}"
        of_run = Real.of(run, 3)
        assert RunDirectory(run).summary()["ranks"] == 2 and 0 < of_run.seconds < RunDirectory(run).summary()["seconds"]
        predicted = of_run.steps * study.model.at(2, expected)
        assert float(taken) == pytest.approx(of_run.seconds, rel=0.01)
        assert float(seconds.strip(" *")) == pytest.approx(predicted, rel=0.02)
        assert off.strip() == f"{predicted / of_run.seconds - 1:+.1%}"
    assert (folder / "target.png").exists()
    refused = CliRunner().invoke(main, [*command[: command.index("--study")], "--step-ms", "1", "--out", str(folder)])
    assert refused.exit_code == 2 and "--real is given; allowed: with --study" in refused.output


def _add_one_rank(out, before, command):
    how = ["--intervals", "1,2,8", "--synthetic", "--steps", "8", "--blocks", "1"]
    again = [HVDCLIP, *command, "--ranks", "1", *how, "--out", out]
    done = subprocess.run([*again, "--add"], cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "without Horovod\n" not in done.stdout, done.stdout + done.stderr
    after = Study.read(out)
    assert [row.found for row in after.rows if row.ranks == 2] == [row.found for row in before.rows]
    assert [row.found for row in after.alone] == [row.found for row in before.alone]
    assert [row.interval for row in after.rows if row.ranks == 1] == [1, 2, 8] * 2, "real and synthetic"
    same = (out / "study.json").read_bytes()
    for more, said in (
        ("algorithm.lr=0.5", "--add: algorithm.lr is 0.5; allowed with "),
        ("--intervals=1,2", "--add: --intervals is [1, 2]; allowed with "),
    ):
        refused = CliRunner().invoke(main, [*map(str, again[1:]), "--add", more])
        assert refused.exit_code == 2 and said in refused.output, refused.output
    unlike = [word for word in map(str, again[1:]) if word != "--synthetic"]
    refused = CliRunner().invoke(main, [*unlike, "--add"])
    assert refused.exit_code == 2 and "--add: --synthetic is False; allowed with " in refused.output, refused.output
    assert (out / "study.json").read_bytes() == same


def test_a_damaged_study_is_named(tmp_path):
    bare = '{"ranks": {"2": {"points": [{}]}}, "alone": {"points": []}, "strong": false, "config": {}}'
    for text in ("{", "{}", '{"ranks": {"2": {}}}', '{"ranks": []}', '{"ranks": {"x": {"points": []}}}', "3", bare):
        (tmp_path / "study.json").write_text(text)
        for command in (["report", str(tmp_path)], ["predict", "--study", str(tmp_path)]):
            refused = CliRunner().invoke(main, command)
            assert refused.exit_code == 2 and "study.json is damaged" in refused.output, refused.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ranks", "1,x"], "--ranks is '1,x'; allowed: integers from 1"),
        (["--strong"], "data.batch is None; allowed with --strong: a batch that 1 ranks can divide evenly"),
        (["algorithm={name: clip21, lr: 0.1, tau: 1.0}"], "algorithm.interval: unknown setting"),
        (["algorithm.warmup_steps=9", "--intervals", "2"], "algorithm.warmup_steps is 9; allowed for a study of I: 0"),
        (["algorithm.overlap=delayed", "--intervals", "2"], "algorithm.overlap is delayed; allowed for a study of I: "),
        (["algorithm.node_interval=2", "--intervals", "2,3"], "algorithm: node_interval is 2"),
        (["--launcher", "mpirun -np 4"], "--launcher is 'mpirun -np 4'; allowed: a program on PATH, with {ranks}"),
        (["--launcher", "no_such -n {ranks}"], "--launcher is 'no_such -n {ranks}'; allowed: a program on PATH"),
        (["--launcher", "mpirun -np {n} {ranks}"], "--launcher is 'mpirun -np {n} {ranks}'; allowed: "),
    ],
)
def test_what_cannot_be_studied_is_one_line(tmp_path, more, said):
    command = ["bench", "scaling", "configs/quadratics.yaml", "--steps", "1", "--blocks", "1", "--intervals", "1"]
    refused = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "study"), *more])
    assert refused.exit_code == 2 and said in refused.output, refused.output


# predictions


def test_predict_says_where_local_steps_cannot_help():
    arguments = ["predict", "--step-ms", "100", "--floats", "25.6e6", "--ranks", "8", "--links"]

    def cells(link):
        said = CliRunner().invoke(main, [*arguments, link]).output
        assert "cannot help" in said
        (row,) = [line for line in said.splitlines() if line.startswith(f"│ {link}")]
        return [cell.strip() for cell in row.strip("│").split("│")][1:]

    assert cells("NVLink3") == ["8", "0.781", "99%", "1.01", "-", "-", "-", "-"]
    assert cells("25GbE") == cells("25:25") == ["8", "57.5", "63%", "1.57", "11", "1.50", "95%", "0.95"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--links", "x"], "--links has 'x'; allowed: 1gbit, 10GbE, "),
        (["--links", "-3"], "--links has '-3'; allowed: "),
        (["--links", "25:nan"], "--links has '25:nan'; allowed: "),
        (["--ranks", "0,2"], "--ranks is '0,2'; allowed: integers from 1"),
        (["--study", "x"], "give --step-ms and --floats, or --study"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(more, said):
    refused = CliRunner().invoke(main, ["predict", "--step-ms", "1", "--floats", "10", *more])
    assert refused.exit_code == 2 and said in refused.output and refused.output.count("\n") == 1


# time to a loss


def test_steps_to_a_loss_lie_between_two_evaluations():
    values = np.array([[3.0, 2.0, 1.0], [1.5, 1.4, 1.3], [3.0, 2.5, 2.0]])
    none = np.full((3, 3), np.nan)
    trace = Trace(2, 4, np.array([10, 20, 30]), np.array([2, 5, 7]), values, none, 0.0, None, None, 0)
    assert steps_to(trace, 1.5).tolist() == [25, 10, np.inf]


def test_the_best_interval_is_where_fewer_rounds_outweigh_more_steps():
    found = [Steps(2, 1, np.array([100.0])), Steps(2, 8, np.array([120.0])), Steps(2, 64, np.array([np.inf]))]
    slow, fast = StepCost(step=0.1, average=0.1), StepCost(step=0.1, average=0.001)
    assert best(found, lambda n: slow, 2).interval == 8 and best(found, lambda n: fast, 2).interval == 1
    assert found[1].seconds(slow) == pytest.approx(120 * (0.1 + 0.1 / 8))
    assert best(found[2:], lambda n: slow, 2) is None


def test_bench_target_multiplies_simulated_steps_by_predicted_seconds(tmp_path):
    job = ["configs/quadratics.yaml", "train.steps=4000", "train.evaluate_every_steps=100", "--loss", "1.5"]
    more = ["--intervals", "1,16", "--seeds", "2", "--out", str(tmp_path), "--step-ms", "1", "--links", "1:1000"]
    done = CliRunner().invoke(main, ["bench", "target", *job, *more])
    assert done.exit_code == 0, done.output
    rows = [line.strip("│").split("│") for line in done.output.splitlines() if line.startswith("│ 2")]
    for row, interval in zip(rows, (1, 16), strict=True):
        steps, seconds = float(row[2].replace(",", "")), float(row[4].strip(" *"))
        assert seconds == pytest.approx(steps * 1e-3 * (1 + (2 + 40 / 125e6 * 1e3) / interval), rel=0.01)
    assert "*" in rows[1][4] and "*" not in rows[0][4] and (tmp_path / "target.png").exists()
    diverging = [*more[:-1], "1:1000", "algorithm.lr=1e9", "algorithm.gamma=1e300"]
    never = CliRunner().invoke(main, ["bench", "target", *job, *diverging])
    assert never.exit_code == 0 and never.output.count("never") == 2, never.output
    refused = CliRunner().invoke(main, ["bench", "target", *job, "--out", str(tmp_path)])
    assert refused.exit_code == 2 and "give one of --step-ms, for links by name, and --study" in refused.output


# a run as it goes on

RUN = [*("configs/quadratics.yaml", "train.steps=400", "train.evaluate_every_steps=100", "checkpoint.every_steps=100")]


def test_a_run_that_is_over_is_told_once(tmp_path):
    run = tmp_path / "run"
    assert CliRunner().invoke(main, ["train", *RUN, "--run-dir", str(run)]).exit_code == 0
    said = CliRunner().invoke(main, ["watch", str(run)]).output
    assert said.startswith("done at step 400; step 400 round 100 epoch 0.40 loss ") and said.count("\n") == 1
    assert "samples/s" in said
    rows = look(RunDirectory(run)).picture().renderables
    assert len(rows) == 4, "what it is, its progress, its evaluations, its ranks"
    (run / "metrics.jsonl").unlink()
    assert look(RunDirectory(run)).text() == "done at step 400", "as before the first line"
    nothing = CliRunner().invoke(main, ["watch", str(tmp_path / "none")])
    assert nothing.exit_code == 2 and "none has no run" in nothing.output


@pytest.mark.ranks
def test_a_run_is_followed_to_its_end(tmp_path):
    run = tmp_path / "run"
    slow = [*RUN, "train.steps=200000", "train.evaluate_every_steps=2000"]
    with Launch([HVDCLIP, "train", *slow, "--run-dir", str(run)], 2, cwd=PROJECT) as training:
        deadline = time.monotonic() + 60
        while not list(run.glob("metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        watching = subprocess.Popen(
            [HVDCLIP, "watch", str(run), "--every", "0.3"], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        said = [watching.stdout.readline() for _ in range(3)]
        assert CliRunner().invoke(main, ["stop", str(run)]).exit_code == 0
        training.finish(60, check=False)
        said += watching.communicate(timeout=30)[0].splitlines()
    assert said[0].startswith("running: rank 0 on ") and said[-1].startswith("stopped by the file STOP at step ")
    steps = [int(line.partition("; step ")[2].split()[0].replace(",", "")) for line in said[:-1] if "; step" in line]
    assert steps == sorted(steps) and steps[0] < steps[-1]


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    run = RunDirectory(tmp_path)
    lines = [json.dumps({"step": step, "text": "ö" * 50}, ensure_ascii=False) for step in range(5000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 50')
    steps = [row["step"] for row in run.last_rows("metrics.jsonl")]
    assert steps == list(range(steps[0], 5000)) and 100 < len(steps) < 1000
    assert run.last_rows("evals.jsonl") == []


def test_squeue_is_asked_again_after_a_while_or_of_another_job(monkeypatch):
    asked, now = [], [0.0]
    monkeypatch.setattr(slurm, "state", lambda job: asked.append(job) or f"{job} RUNNING")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    queue = Queue()
    assert [queue.state("7"), queue.state("7"), queue.state("8")] == ["7 RUNNING", "7 RUNNING", "8 RUNNING"]
    now[0] = 11.0
    assert queue.state("8") == "8 RUNNING" and asked == ["7", "8", "8"]
