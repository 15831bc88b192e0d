"""The commands of the README and of docs/ are run.

A page's blocks are one script, in a folder that holds the project's files, with smaller configurations under the same
names. What would take too long gets further options, given here, and of what another test runs, that test is named, and
the options are looked up.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from conftest import PROJECT
from launch import BIN, Launch, forked

from hvdclip.cli import main

PAGES = {page.name: page.read_text() for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("[!R]*.md")))}
BLOCKS = {name: re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for name, text in PAGES.items()}

# commands that other tests run, with what these give them
ELSEWHERE = {
    "./jobs/test.sh": "test_guide.py::test_every_command_is_run_somewhere",  # is running now
    "./jobs/quickstart.sh": "test_guide.py::test_the_quickstart",
    "jobs/setup.sh": "test_setup.py::test_second_setup_is_short",
    "pip wheel --no-deps .": "test_wheel.py::test_the_wheel_has_all_that_lies_beside_hvdclip",
    "pip install hvdclip-": "test_wheel.py::test_the_command_in_a_folder_that_is_no_checkout",
    "hvdclip setup-horovod": "test_wheel.py::test_setup_horovod_makes_it_whole",
    "horovodrun -np 2 hvdclip train quickstart": "test_wheel.py::test_setup_horovod_makes_it_whole",
    "hvdclip bench step": "test_bench.py::test_step_has_all_peers_and_their_ratios",
    "mpirun -np 2 hvdclip bench allreduce": "test_bench.py::test_all_ways_to_average_leave_the_mean_of_two_ranks",
    "mpirun -np 2 hvdclip bench train": "test_bench.py::test_training_of_two_ranks_counts_bytes",
    "mpirun -np 2 hvdclip bench images": "test_bench.py::test_images_are_trained_on_with_and_without_hvdclip",
    "mpirun -np 2 hvdclip bench growth": "test_bench.py::test_growth_has_every_size",
    "mpirun -np 2 hvdclip bench save": "test_bench.py::test_save_pauses_and_leaves_nothing_behind",
    "HOROVOD_TIMELINE=": "test_family.py::test_buckets_are_sent_while_backward_still_makes_others",
    "horovodrun -np 2 --min-np 1": "test_elastic.py::test_ranks_die_and_are_added_and_no_round_is_lost",
    "horovodrun -np 2 python example.py": "test_readme.py::test_the_script_runs_on_two_ranks",
    "python example.py": "test_readme.py::test_the_script_runs_alone",
    "hvdclip data wikitext-2": "test_sources.py::test_files_come_once_and_are_told_of",
    "jobs/gpu.sh": "test_guide.py::test_the_jobs_for_gpus_say_that_there_is_none",
}
SHORTER = {
    "hvdclip bench link": "--largest 0.1 --blocks 1",
    "hvdclip bench scaling": "--steps 4 --blocks 1",
    "slurm/scaling.sbatch": "--steps 4 --blocks 1",
    "jobs/bench_links.sh": "--shape small --steps 4 --blocks 1",
    "configs/bilevel_cosh.yaml": "train.steps=40 train.evaluate_every_steps=20",
    "configs/cleaning.yaml": "train.steps=20 train.evaluate_every_steps=10 algorithm.warm_start=4",
    "jobs/memory.py": "1e5 celgc",
    "jobs/time_to_perplexity.sh": "1gbit model.hidden=16 train.steps=8 train.evaluate_every_steps=4",
}
# what a reader waits for, or does, before the next command
AFTERWARDS = {
    "source .venv/bin/activate": "PATH=$FORKED:$PATH",
    "hvdclip eval runs/i4": "hvdclip train configs/quickstart.yaml train.steps=99999 --run-dir runs/i4 --overwrite &\n"
    "until hvdclip status runs/i4 | grep -q 'training at step [1-9]'; do sleep 0.5; done",
    "--time 02:00:00 --run-dir runs/a": "until [[ -s runs/a/metrics.jsonl ]]; do sleep 0.5; done",
    "hvdclip cancel runs/a": "sed -i 's/steps: 100000/steps: 16/' configs/quickstart.yaml",
    "--run-dir runs/sweep": "until (($(ls runs/sweep/*/summary.json 2>/dev/null | wc -l) == 4)); do sleep 0.5; done",
    "sbatch slurm/scaling.sbatch": "until grep -sq 'report: ' study/4-nodes.out; do sleep 0.5; done",
}
# pages that are run after another one, in the same folder, without the commands that are there too
AFTER = {"interval.md": "scaling.md"}
ON_A_CLUSTER = ("srun ", "sbatch ", "hvdclip submit ")
WITH_A_CLUSTER_OF_THEIR_OWN = "jobs/bench_links.sh"


def commands(block: str) -> list[str]:
    """A line each, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True, posix=False)) for line in lines if line.split("#")[0].strip()]


def scripts(page: str, cluster: bool) -> str:
    """The page's commands for a cluster, or its others, as one script; "" where there are none."""
    lines = []
    for block in BLOCKS[page]:
        if any(word in block for word in ON_A_CLUSTER) == cluster:
            lines += [_as_run(command) for command in commands(block) if not _elsewhere(command)]
    return "\n".join(lines)


def _elsewhere(command: str) -> str | None:
    return next((test for start, test in ELSEWHERE.items() if command.startswith(start)), None)


def _as_run(command: str) -> str:
    more = next((options for part, options in SHORTER.items() if part in command), "")
    then = next((wait for part, wait in AFTERWARDS.items() if part in command), "")
    return "\n".join(filter(None, (f"{command} {more}", then)))


@pytest.fixture
def project(tmp_path):
    """The project's files, small configurations, and what the pages take to be there."""
    for name in (".venv", "README.md", "docs", "jobs", "slurm", "tests"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "configs").mkdir()
    for file in (PROJECT / "configs").glob("*.yaml"):
        (tmp_path / "configs" / file.name).write_text(yaml.safe_dump(_smaller(yaml.safe_load(file.read_text()))))
    code, job = (re.search(rf"```{kind}\n(.*?)```", PAGES["first_run.md"], re.DOTALL)[1] for kind in ("python", "yaml"))
    (tmp_path / "my_module.py").write_text(code)
    (tmp_path / "my_job.yaml").write_text(job)
    if "HVDCLIP_DATA" in os.environ:
        _less_data(Path(os.environ["HVDCLIP_DATA"]), tmp_path / "data")
    return tmp_path


def _less_data(whole, folder):
    (folder / "wikitext-2").mkdir(parents=True)
    for file in (whole / "wikitext-2").glob("*.txt"):
        (folder / "wikitext-2" / file.name).write_text(file.read_text()[:20000])
    (folder / "MNIST").symlink_to(whole / "MNIST")


def _smaller(config):
    if isinstance(config["data"], str):
        return config
    if isinstance(config["model"], dict) and config["model"]["name"] == "gpt":
        config["model"] |= {"context": 16, "width": 16, "layers": 1, "heads": 2}
        config["data"] |= {"batch": 2, "evaluation_windows": 20}
        config["train"] |= {"steps": 64, "warmup_steps": 4, "evaluate_every_steps": 32}
    elif config["data"]["name"] in ("stdlib", "wikitext-2"):
        config["model"] |= {"embedding": 8, "hidden": 16}
        config["data"] |= {"batch": 4, "bptt": 16, "evaluation_columns": 600}
        config["train"] |= {"steps": 400, "evaluate_every_steps": 200}
    elif "epochs" in config["train"]:
        config["data"] |= {"samples": 64, "test_samples": 32} if config["data"]["name"] == "synthetic" else {}
        config["train"] = {"steps": 4}
    else:
        config["train"] |= {"steps": 2000, "evaluate_every_steps": 100}
    return config


def run(script, project, timeout):
    data = {"HVDCLIP_DATA": str(project / "data")} if (project / "data").exists() else {}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    many = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    (project / "forked").mkdir()
    warm = forked(project / "forked") | {"FORKED": str(project / "forked")}
    path = {"PATH": f"{project / 'forked'}:{BIN}:{os.environ['PATH']}"}
    with Launch(["bash", "-exc", script], 1, "alone", env=root | many | data | warm | path, cwd=project) as page:
        return page.finish(timeout)


LOCAL = [page for page in PAGES if scripts(page, cluster=False) and page not in AFTER]


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize("page", LOCAL)
def test_a_pages_commands_run(page, project):
    script = scripts(page, cluster=False)
    for later in (each for each, first in AFTER.items() if first == page):
        lines = scripts(later, cluster=False).splitlines()
        script = "\n".join([script, *(line for line in lines if line not in script.splitlines())])
    if page in ("bilevel.md", "images.md", "wikitext2.md") and "HVDCLIP_DATA" not in os.environ:
        pytest.skip("HVDCLIP_DATA names no folder with the data of this page")
    if WITH_A_CLUSTER_OF_THEIR_OWN in script and os.geteuid() != 0:
        pytest.skip("emulated nodes need root")
    if "runs/quickstart-celgc" in script:
        script = f"hvdclip train configs/quickstart.yaml --run-dir runs/quickstart-celgc\n{script}"
    run(script, project, 280)


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("page", [page for page in PAGES if scripts(page, cluster=True)])
def test_a_pages_commands_for_a_cluster_run(page, project, slurm_cluster):
    if page == "slurm.md":  # whose first run is stopped by hand
        file = project / "configs/quickstart.yaml"
        file.write_text(file.read_text().replace("steps: 400", "steps: 100000"))
    slurm_cluster.run("env", "-C", str(project), "bash", "-exc", scripts(page, cluster=True), timeout=280)


@pytest.mark.ranks
@pytest.mark.slow
def test_the_quickstart(tmp_path):
    small = ["train.steps=24", "train.evaluate_every_steps=24", "model.hidden=16", "data.evaluation_columns=600"]
    with Launch([str(PROJECT / "jobs/quickstart.sh"), *small], 1, "alone", env={"RUNS": str(tmp_path)}) as quickstart:
        said = quickstart.finish(200).stdout
    assert "celgc, I = 8" in said and "naive_parallel_clip" in said and "1/8.0" in said
    assert (tmp_path / "quickstart-plots/comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_the_jobs_for_gpus_say_that_there_is_none(tmp_path):
    bare = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([PROJECT / "jobs/gpu.sh", tmp_path / "gpu"], env=bare, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("this machine has an NVIDIA GPU: jobs/gpu.sh is to be run by hand")
    assert "no nvidia-smi on PATH, so no NVIDIA GPU" in done.stderr and not (tmp_path / "gpu").exists()


def test_every_command_is_run_somewhere():
    """What another test runs is a test that is there; blocks that are no commands say what they are."""
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        assert f"def {name}(" in (PROJECT / "tests" / file).read_text(), test
    for text in PAGES.values():
        fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
        assert set(fences[::2]) <= {"sh", "python", "yaml", "text"} and set(fences[1::2]) <= {""}
    for part in (*ELSEWHERE, *SHORTER, *AFTERWARDS):
        assert any(part in command for blocks in BLOCKS.values() for b in blocks for command in commands(b)), part


LOOKED_UP = sorted(
    {
        command
        for name, text in PAGES.items()
        for command in (
            *re.findall(r"`((?:mpirun -np \d+ |horovodrun -np \d+ )?hvdclip [a-z][^`|]* [^`|]*)`", text),
            *(command for block in BLOCKS[name] for command in commands(block) if _elsewhere(command)),
        )
        if "..." not in command and " hvdclip " in f" {command}"
    }
)


@pytest.mark.parametrize("line", LOOKED_UP)
def test_commands_have_options_that_there_are(line):
    """Of those in the text, most of which tell how a figure was made, and of those that other tests run."""
    words = shlex.split(line)
    words = words[words.index("hvdclip") + 1 :]
    command = main
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
    command.make_parser(click.Context(command)).parse_args(words)


def test_links_lead_somewhere():
    for page in (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
            assert not heading or heading in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles], link
