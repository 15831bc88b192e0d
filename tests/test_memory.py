"""Memory that a step frees stays with the process, for the next step."""

import os
import platform
import subprocess
import sys

import pytest

# after a command of hvdclip, how often the kernel gives a page for ten tensors that are freed one after another
SOURCE = """
import resource
import sys
import torch
from click.testing import CliRunner
from hvdclip.cli import main

assert CliRunner().invoke(main, sys.argv[1:]).exit_code == 0
for round in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LARGEST_PAGES = 64_000_000 // 2**21  # of one tensor


LIBRARY, VERSION = platform.libc_ver()


@pytest.mark.slow
@pytest.mark.skipif(
    LIBRARY != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="this libc keeps no blocks of 64 MB"
)
@pytest.mark.parametrize(
    ("command", "given", "kept"),
    [
        ("algorithms", {}, True),
        ("algorithms", {"MALLOC_TOP_PAD_": "0"}, False),
        ("algorithms", {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, False),
        ("bench train --shape small --blocks 1 --peers celgc_4", {}, True),
        ("bench step --shape small --blocks 1", {}, False),
    ],
    ids=["default", "variable", "tunable", "bench of training", "bench of one operation"],
)
def test_freed_memory_is_kept_unless_glibc_is_to_have_it_back(command, given, kept):
    own = ("GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k not in own}
    done = subprocess.run(
        [sys.executable, "-c", SOURCE, *command.split()],
        env=environment | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    faults = int(done.stdout.split()[-1])
    assert faults < 5 * LARGEST_PAGES if kept else faults > 9 * LARGEST_PAGES
