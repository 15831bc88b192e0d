"""Memory that a step frees stays with the process, for the next step."""

import os
import platform
import subprocess
import sys

import pytest

# after a command of hvdclip, how often the kernel gives a page for ten tensors that are freed one after another
SOURCE = """
import resource
import torch
from click.testing import CliRunner
from hvdclip.cli import main

assert CliRunner().invoke(main, ["algorithms"]).exit_code == 0
for round in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LARGEST_PAGES = 64_000_000 // 2**21  # of one tensor


LIBRARY, VERSION = platform.libc_ver()


@pytest.mark.skipif(
    LIBRARY != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="this libc keeps no blocks of 64 MB"
)
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, True),
        ({"MALLOC_TOP_PAD_": "0"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, False),
    ],
    ids=["default", "variable", "tunable"],
)
def test_freed_memory_is_kept_unless_the_environment_tells_glibc_otherwise(given, kept):
    own = ("GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k not in own}
    done = subprocess.run(
        [sys.executable, "-c", SOURCE], env=environment | given, capture_output=True, text=True, timeout=60, check=True
    )
    faults = int(done.stdout.split()[-1])
    assert faults < 5 * LARGEST_PAGES if kept else faults > 9 * LARGEST_PAGES
