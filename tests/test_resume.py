"""Runs on real ranks that are killed and resumed, to the bit of the run that nobody disturbed."""

import random
import re

import pytest
from kills import LANGUAGE, PROBLEM, Job, read

pytestmark = pytest.mark.ranks

JOBS = {
    "celgc, language model": Job("celgc", LANGUAGE),
    "celgc, 4 ranks": Job("celgc", PROBLEM, ranks=4),
    "episode": Job("episode", PROBLEM),
    "scaffold": Job("scaffold", PROBLEM),
    "clip21": Job("clip21", PROBLEM),
    "bucket_clip": Job("bucket_clip", LANGUAGE),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_killed_run_goes_on_to_the_bit(tmp_path, job):
    """One rank, whichever, is killed at a random moment."""
    share, victim = random.uniform(0.2, 0.9), random.randrange(job.ranks)
    print(f"rank {victim} is killed at {share:.3f}")
    job.train(tmp_path / "whole")
    job.kill(tmp_path / "killed", victim, share, tmp_path / "whole")
    said = job.train(tmp_path / "killed", "--resume")
    assert re.search(r"killed goes on from step [1-9]", said)
    assert read(tmp_path / "killed") == read(tmp_path / "whole")
