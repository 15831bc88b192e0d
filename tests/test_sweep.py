"""Job arrays, templates and wrong launches, on a real SLURM of four nodes; and the scripts by themselves."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from conftest import ENDED, PROJECT, SlurmCluster

from hvdclip.cli import main
from hvdclip.launch import sweep
from hvdclip.launch.script import Resources, SlurmJob, seconds, site_options

QUADRATICS = ["configs/quadratics.yaml", "train.steps=40", "train.evaluate_every_steps=40"]
ENDLESS = ["configs/quadratics.yaml", "train.steps=100000000", "train.evaluate_every_steps=100000000"]
ODD = 'it\'s $(touch pwned) `touch pwned` "%j" & more'


def states(jobs: list[dict[str, str]]) -> list[str]:
    return [fields["JobState"] for fields in jobs]


def on_slurm(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.slow(pytest.mark.slurm(pytest.mark.ranks(test)))


def submit(cluster: SlurmCluster, *arguments: str) -> str:
    said = cluster.run("hvdclip", "submit", *arguments, "--cpus-per-task=1")
    return re.findall(r"submitted job (\d+)", said)[0]


# by themselves


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1", 60),
        ("90", 5400),
        ("2:30", 150),
        ("01:30:00", 5400),
        ("1-0", 86400),
        ("2-12:30", 217_800),
        ("1-0:0:5", 86405),
    ],
)
def test_slurms_times(time, expected):
    assert seconds(time) == expected


def test_a_grid_keeps_lists_whole_and_names_what_varies():
    runs = sweep.grid(
        ["algorithm.interval=1,4", "train.milestones=[1,2],[3]", "model={name: a, b: c}", "train.seed=0.5,x/y"]
    )
    assert len(runs) == 8
    assert runs[0] == ("algorithm.interval=1", "train.milestones=[1,2]", "model={name: a, b: c}", "train.seed=0.5")
    assert list(sweep.names(runs))[:2] == [
        "0-interval=1-milestones=_1_2_-seed=0.5",
        "1-interval=1-milestones=_1_2_-seed=x_y",
    ]


@pytest.mark.parametrize("site", sorted(file.stem for file in (PROJECT / "slurm/sites").glob("*.env")))
def test_every_site_makes_a_script_that_the_shell_reads(site, tmp_path):
    script = SlurmJob(tmp_path / ODD, Resources(nodes=2, time="01:00:00"), "title", site=site).script()
    assert all(f"#SBATCH {shlex.quote(option)}" in script for option in site_options(site))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_dry_run_prints_what_would_be_submitted_and_leaves_nothing(tmp_path):
    arguments = [*QUADRATICS, "--nodes=2", "--run-dir", str(tmp_path / ODD), "--dry-run"]
    said = CliRunner().invoke(main, ["submit", *arguments])
    assert said.exit_code == 0 and "#SBATCH --nodes=2" in said.stdout
    assert said.stderr == "the settings were not checked; hvdclip submit checks them before it submits\n"
    assert os.listdir(tmp_path) == []
    # the words of the script are the words that were given
    words = shlex.split(said.stdout.partition("run=")[2])[0]
    assert words == str(tmp_path / ODD)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--time=x"], "--time is 'x'; allowed: 30 (minutes), 01:30:00, 2-12:00:00"),
        (["--site=nowhere"], "--site is 'nowhere'; allowed: a file of settings, or one of"),
        (["--time=x", "--dry-run"], "--time is 'x'; allowed: "),
        (["--site=nowhere", "--dry-run"], "--site is 'nowhere'; allowed: "),
        (["--gpus-per-node=2", "--ntasks-per-node=3"], "so ranks would share a GPU; allowed: up to 2 tasks per node"),
        (["algorithm.nonsense=1"], "algorithm.nonsense: unknown setting"),
        (["algorithm.interval=1,zwei", "--array"], "algorithm.interval is 'zwei'; allowed: "),
        (["--run-dir=a\nb"], "--run-dir is 'a\\nb'; allowed: a name of one line"),
        ([], "sbatch is not on PATH: SLURM does not take jobs from this machine"),
    ],
)
def test_wrong_submissions_are_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen = [] if any("--run-dir" in argument for argument in arguments) else ["--run-dir", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, ["submit", *QUADRATICS, *arguments, *chosen])
    assert refused.exit_code == 2 and said in refused.output and len(refused.output.splitlines()) == 1
    assert os.listdir(tmp_path) == []


# on SLURM


@on_slurm
def test_no_name_becomes_code(slurm_cluster, tmp_path):
    config = tmp_path / f"{ODD}.yaml"
    config.write_text((PROJECT / "configs/quadratics.yaml").read_text())
    job = submit(slurm_cluster, str(config), *QUADRATICS[1:], f"--run-dir={tmp_path / ODD}")
    assert states(slurm_cluster.wait(job, 60)) == ["COMPLETED"]
    assert json.loads((tmp_path / ODD / "summary.json").read_text())["exit"] == "done"
    assert "job" in (tmp_path / ODD / f"slurm-{job}.out").read_text()
    assert not list(PROJECT.glob("pwned")) and not list(tmp_path.rglob("pwned"))


@on_slurm
def test_a_sweep_goes_on_without_its_failing_member(slurm_cluster, tmp_path):
    folder = tmp_path / "sweep"
    grid = ["algorithm.interval=1,4,8", "algorithm.lr=0.001,1e300", "algorithm.gamma=1e300"]
    job = submit(slurm_cluster, *QUADRATICS, *grid, "--array", "--at-once=2", f"--run-dir={folder}")
    deadline, most, found = time.monotonic() + 150, 0, [""]
    while not all(state in ENDED for state in found):
        assert time.monotonic() < deadline, found
        found = states(slurm_cluster.jobs(job))
        most = max(most, found.count("RUNNING"))
        time.sleep(0.3)
    assert most <= 2
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert len(runs) == 6 and runs[0] == "0-interval=1-lr=0.001"
    said = slurm_cluster.run("hvdclip", "status", str(folder))
    assert f"job {job}: not in the queue" in said
    for run in runs:
        line = next(line for line in said.splitlines() if run in line)
        assert ("done at step 40" if "lr=0.001" in run else "failed: ") in line, said
    said = slurm_cluster.run("hvdclip", "plot", str(folder), "--out", str(tmp_path / "plots"))
    assert "left out, because not finished: 1-interval=1-lr=1e300, 3-" in said and "comparison.png" in said
    assert all(f"I = {interval}" in said or f"interval={interval}" in said for interval in (1, 4, 8)), said


@on_slurm
def test_cancel_takes_a_job_out_for_good(slurm_cluster, tmp_path):
    folder = tmp_path / "sweep"
    job = submit(slurm_cluster, *ENDLESS, "train.seed=0,1", "--array", "--at-once=1", f"--run-dir={folder}")
    deadline = time.monotonic() + 60
    while not (folder / "0-seed=0/metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.3)
    said = slurm_cluster.run("hvdclip", "status", str(folder))
    assert f"{job}_0 RUNNING" in said and f"{job}_1 PENDING" in said and "has not started" in said
    assert "job" in slurm_cluster.run("hvdclip", "cancel", str(folder / "1-seed=1"))
    slurm_cluster.run("hvdclip", "cancel", str(folder))
    assert set(states(slurm_cluster.wait(job, 60))) == {"CANCELLED"}
    time.sleep(8)  # a job that is put back would wait so long
    assert set(states(slurm_cluster.jobs(job))) == {"CANCELLED"}
    assert not (folder / "1-seed=1/metrics.jsonl").exists()


@on_slurm
@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ("srun -N2 --mpi=none hvdclip train {job}", "srun started 2 tasks without MPI support"),
        (
            "srun -n2 -N1 --overlap mpirun -np 2 hvdclip train {job}",
            "srun started mpirun 2 times, each with its own world",
        ),
        (
            "srun -n2 -N1 --gpus-per-node=1 hvdclip train {job}",
            "ranks 0, 1 on .* would share GPU 0 of 1; start as many",
        ),
        (
            "sbatch -W -o {log} -N1 -n4 --wrap 'mpirun -np 2 hvdclip train {job}' >{log}.id; cat {log}; false",
            "SLURM_NTASKS is 4, but the world has 2 ranks: start all",
        ),
        ("hvdclip submit {job} --partition=nowhere", "sbatch refuses: invalid partition specified: nowhere"),
        ("hvdclip submit {job} --nodes=99", "sbatch refuses: .*"),
        ("hvdclip submit configs/quadratics.yaml --run-dir=/proc/none", "/proc/none: No such file or directory"),
    ],
)
def test_wrong_launches_are_one_clear_line(slurm_cluster, tmp_path, launch, said):
    line = launch.format(job=f"configs/quadratics.yaml --run-dir={tmp_path / 'run'}", log=tmp_path / "log")
    done = slurm_cluster.run(
        "bash", "-c", f"OMPI_MCA_rmaps_default_mapping_policy=:oversubscribe {line} 2>&1; echo status $?"
    )
    ours = [text for text in done.splitlines() if text.startswith("hvdclip: ")]
    assert ours and all(re.match(f"hvdclip: {said}", text) for text in ours), done
    assert "status 0" not in done and "Traceback" not in done
    assert not (tmp_path / "run").exists()


@on_slurm
def test_a_missing_module_is_named_by_the_job(slurm_cluster, tmp_path):
    (tmp_path / "site.env").write_text("HVDCLIP_MODULES=no_such_module\n")
    job = submit(slurm_cluster, *QUADRATICS, f"--site={tmp_path / 'site.env'}", f"--run-dir={tmp_path / 'run'}")
    assert states(slurm_cluster.wait(job, 30)) == ["FAILED"]
    said = (tmp_path / f"run/slurm-{job}.out").read_text()
    assert "hvdclip: HVDCLIP_MODULES is 'no_such_module', which module load refuses on " in said


TEMPLATES = {
    "train.sbatch": [*QUADRATICS, "--run-dir", "{run}"],
    "train_cpu.sbatch": [*QUADRATICS, "--run-dir={run}"],
}


@on_slurm
@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_run(slurm_cluster, tmp_path, template):
    run, log = tmp_path / "run", tmp_path / "job.out"
    arguments = [argument.format(run=run) for argument in TEMPLATES[template]]
    job = slurm_cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--output={log}", f"slurm/{template}", *arguments)
    ).strip()
    assert states(slurm_cluster.wait(job, 120)) == ["COMPLETED"], log.read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["exit"], summary["ranks"]) == ("done", 4 if "cpu" in template else 2)


@on_slurm
def test_the_scaling_template_submits_a_job_for_each_number_of_nodes(slurm_cluster, tmp_path):
    study, log = tmp_path / "study", tmp_path / "submit.out"
    options = ["--intervals", "1,2,4", "--blocks", "2", "--steps", "4"]
    slurm_cluster.run(
        *("sbatch", "--wait", f"--output={log}", "slurm/scaling.sbatch", str(study), "1 2", "configs/quadratics.yaml"),
        *options,
    )
    jobs = re.findall(r"hvdclip: job (\d+) measures on (\d) nodes", log.read_text())
    assert [nodes for _, nodes in jobs] == ["1", "2"]
    for job, nodes in jobs:
        assert states(slurm_cluster.wait(job, 120)) == ["COMPLETED"], (study / f"{nodes}-nodes.out").read_text()
    found = json.loads((study / "study.json").read_text())
    assert {ranks: len(set(made["hosts"])) for ranks, made in found["ranks"].items()} == {"1": 1, "2": 2}
    (point, *_) = found["ranks"]["2"]["points"]
    assert all(sent > point["bytes"] for sent in point["sent"]), "two nodes send what each has handed over, and headers"
    assert (study / "scaling.png").exists() and (study / "report/report.html").exists()
    assert "median error on what was held out: " in (study / "2-nodes.out").read_text()


@on_slurm
def test_the_sweep_template_and_the_interactive_one(slurm_cluster, tmp_path):
    job = slurm_cluster.run(
        *("sbatch", "--parsable", "--nodes=1", "--array=0-1", f"--output={tmp_path}/%a.out"),
        *("slurm/sweep.sbatch", *QUADRATICS),
    ).strip()
    place = PROJECT / f"runs/sweep-{job}"
    try:
        assert states(slurm_cluster.wait(job, 90)) == ["COMPLETED"] * 2, (tmp_path / "0.out").read_text()
        assert sorted(file.parent.name for file in place.glob("*/summary.json")) == [
            "interval-1-seed-0",
            "interval-4-seed-0",
        ]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    in_a_shell = "echo 'launch hvdclip doctor' | slurm/interactive.sh --nodes=2 --ntasks-per-node=1"
    said = slurm_cluster.run("bash", "-c", in_a_shell)
    assert re.search(r"ok +ranks +2: 1 on (\S+), 1 on (?!\1)\S+", said), said


@on_slurm
@pytest.mark.parametrize("launcher", ["srun --mpi=pmix", "mpirun"])
def test_the_doctor_on_two_nodes(slurm_cluster, tmp_path, launcher):
    line = f"salloc -N2 -n2 {launcher} hvdclip doctor configs/quickstart.yaml --run-dir {tmp_path / 'run'}"
    said = slurm_cluster.run(*shlex.split(line))
    for seen in (
        r"ranks +2: 1 on (\S+), 1 on (?!\1)\S+",
        r"Horovod +built with MPI, Gloo",
        r"clocks +within 0\.\d+ s",
        r"all-reduce of 64 MB +[\d.]+ ms, [\d.]+ Gbit/s on the wire of a ring",
        r"data of stdlib +[0-9a-f]{40}",
        rf"run directory +{tmp_path / 'run'}",
    ):
        assert re.search(f" ok  {seen}", said), said
