"""How a study is made: `hvdclip bench points` runs on one number of ranks after another; results are collected."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hvdclip.checkpoints import durable
from hvdclip.config import differences
from hvdclip.scaling.study import ALONE, STUDY, SYNTHETIC, Study


def check_addition(
    folder: Path, config: dict[str, Any], intervals: Sequence[int], synthetic: bool, strong: bool
) -> None:
    """ValueError if the folder has a study of something else."""
    if not (folder / STUDY).exists():
        return
    study = Study.read(folder)
    then: dict[str, Any] = {
        "--intervals": sorted({row.interval for row in study.alone}),
        "--synthetic": any(row.data == SYNTHETIC for row in study.alone),
        "--strong": study.made["strong"],
    }
    now: dict[str, Any] = {"--intervals": sorted(intervals), "--synthetic": synthetic, "--strong": strong}
    for key, was, given in (*differences(then, now), *differences(study.made["config"], config)):
        if key != "algorithm.interval":
            raise ValueError(f"--add: {key} is {given}; allowed with {folder}: {was}, as in the study there")


def run(
    arguments: Sequence[str], ranks: Sequence[int], batch: int | None, folder: Path, launcher: str | None, add: bool
) -> Iterator[str]:
    """Launch `hvdclip bench points` with the arguments on each number of ranks, collect the results, and report each.

    `batch` is that of all ranks together, if it is to stay the same. The results replace the study in the folder, or
    are added to it. ValueError for a launcher that is missing, RuntimeError if a launch fails.
    """
    lines = {number: launch_line(launcher, number) for number in ranks}
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"ranks": {}}
    if add and (folder / STUDY).exists():
        found = Study.read(folder).made
    else:
        (folder / STUDY).unlink(missing_ok=True)
    for name in (*(() if ALONE in found else (ALONE,)), *map(str, ranks)):
        number = 1 if name == ALONE else int(name)
        file = folder / f"ranks-{name}.json"
        words = [] if batch is None else [f"data.batch={batch // number}"]
        command = ["bench", "points", *arguments, *words, "--json", str(file)]
        yield "one process without Horovod" if name == ALONE else f"{number} rank{'s' * (number > 1)}"
        launch([] if name == ALONE else lines[number], command, folder / f"ranks-{name}.txt")
        made = json.loads(file.read_text())
        if made["ranks"] != number:
            raise RuntimeError(f"{shlex.join(lines[number])} has started {made['ranks']} ranks, not {number}")
        (found if name == ALONE else found["ranks"])[name] = made
        if name != ALONE:
            known = found | {"strong": batch is not None, "config": found[ALONE]["config"]}
            durable.write_text(folder / STUDY, json.dumps(known, indent=1) + "\n")


def launch_line(given: str | None, ranks: int) -> list[str]:
    """How ranks are started: as given, by srun in a SLURM job, otherwise by mpirun; ValueError if that cannot work."""
    per_node = max(1, int(os.environ.get("SLURM_NTASKS", "1")) // int(os.environ.get("SLURM_JOB_NUM_NODES", "1")))
    srun = "srun --mpi=pmix --kill-on-bad-exit=1 --nodes={nodes} --ntasks={ranks}"
    line = given or (srun if "SLURM_JOB_ID" in os.environ else "mpirun --bind-to none -np {ranks}")
    try:
        words = shlex.split(line.format(ranks=ranks, nodes=math.ceil(ranks / per_node)))
    except (KeyError, IndexError, ValueError):
        words = []
    if "{ranks}" not in line or not words or shutil.which(words[0]) is None:
        raise ValueError(
            f"--launcher is {line!r}; allowed: a program on PATH, with {{ranks}} and {{nodes}} to be filled in"
        )
    return words


def launch(line: Sequence[str], command: Sequence[str], log: Path) -> None:
    """Run an hvdclip command under a launcher, or alone; RuntimeError with its message if it fails."""
    many = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    # one process alone must not have more threads than each of several ranks
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with log.open("w") as out:
        environment = os.environ | many | as_root | threads
        if line and line[0] != "srun":
            environment.pop("SLURM_NTASKS", None)  # here fewer ranks than the job's tasks are intended
        done = subprocess.run(
            [*line, sys.executable, "-m", "hvdclip", *command], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    if done.returncode:
        said = [text for text in log.read_text().splitlines() if text.startswith("hvdclip: ")]
        why = said[0].removeprefix("hvdclip: ") if said else f"exit status {done.returncode}"
        raise RuntimeError(f"{shlex.join(line) or 'one process'} failed: {why} (all of it in {log})")
