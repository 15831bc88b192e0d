"""What jobs/torture.sh runs: random kills, resumed, and a table of them as Markdown."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kills import LANGUAGE, SETTINGS, Job, has_come_to, read
from rich.progress import track

SEED = 1


class Kill(NamedTuple):
    """One kill and its result: the step from which the run continued, and what differed in the end."""

    job: Job
    rank: int
    share: float
    resumed: int | None
    differs: list[str]

    @property
    def result(self) -> str:
        if self.resumed is None:
            return f"not resumed: {', '.join(self.differs)}"
        return "the same" if not self.differs else f"differs: {', '.join(self.differs)}"


def killed(job: Job, whole: Path, run: Path, rank: int, share: float) -> Kill:
    """Kill the rank at that share of the run, resume the run, and compare it with the uninterrupted one."""
    shutil.rmtree(run, ignore_errors=True)
    try:
        job.kill(run, rank, has_come_to(share, run, whole))
        said = job.train(run, "--resume")
    except AssertionError as error:
        return Kill(job, rank, share, None, [str(error).splitlines()[0]])
    step = re.search(r"continues from step (\d+)", said)
    theirs, ours = read(run), read(whole)
    differs = [key for key in ours if theirs[key] != ours[key]]
    return Kill(job, rank, share, int(step[1]) if step else 0, differs)


def plan(kills: int, names: list[str]) -> Iterator[tuple[Job, int, float]]:
    """(job, rank, share) of every kill: each algorithm once, then so many more."""
    draw = random.Random(SEED)
    for name in [*names, *itertools.islice(itertools.cycle(draw.sample(names, len(names))), kills)]:
        ranks = draw.choice([2, 2, 4]) if name == "celgc" else 2
        yield Job(name, LANGUAGE, ranks), draw.randrange(ranks), draw.uniform(0.15, 0.95)


def main(folder: Path, kills: int, names: list[str]) -> bool:
    """Run the plan and write the table; returns whether all were the same."""
    done: list[Kill] = []
    start = time.time()
    for job, rank, share in track(list(plan(kills, names)), "killing"):
        whole = folder / f"{job.algorithm}-{job.ranks}"
        if not (whole / "summary.json").exists():
            shutil.rmtree(whole, ignore_errors=True)
            job.train(whole)
        done.append(killed(job, whole, folder / "killed", rank, share))
        print(f"{job.algorithm:<20} {job.ranks} ranks  rank {rank} at {share:4.0%}  {done[-1].result}", flush=True)
    (folder / "torture.md").write_text("\n".join(table(done, time.time() - start)) + "\n")
    return all(not kill.differs for kill in done)


def table(done: list[Kill], seconds: float) -> Iterator[str]:
    """A row for each algorithm and number of ranks."""
    same = sum(not kill.differs for kill in done)
    spent = f"{seconds / 60:.0f} minutes, {time.strftime('%d %B %Y')}"
    yield f"{same} of {len(done)} runs ended as if nobody had killed them ({spent})."
    yield ""
    yield "algorithm | ranks | killed at that share of the run (rank) | went on from step | result"
    yield "--- | --- | --- | --- | ---"

    def kind(kill: Kill) -> tuple[int, int]:
        return list(SETTINGS).index(kill.job.algorithm), kill.job.ranks

    for (_, ranks), group in itertools.groupby(sorted(done, key=kind), kind):
        rows = list(group)
        killed = ", ".join(f"{kill.share:.0%} (rank {kill.rank})" for kill in rows)
        resumed = ", ".join("-" if kill.resumed is None else str(kill.resumed) for kill in rows)
        results = "; ".join(dict.fromkeys(kill.result for kill in rows))
        yield f"`{rows[0].job.algorithm}` | {ranks} | {killed} | {resumed} | {results}"


if __name__ == "__main__":
    chosen = sys.argv[3:] or list(SETTINGS)
    if unknown := [name for name in chosen if name not in SETTINGS]:
        sys.exit(f"unknown algorithms: {', '.join(unknown)}; allowed are {', '.join(SETTINGS)}")
    sys.exit(not main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50, chosen))
