"""What starts the ranks of other tests."""

import pytest
from launch import LOST_BY_MPI, python_ranks

FAILS_AT_FIRST = """
import sys
from pathlib import Path

tries = Path("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) < 2:
    sys.exit({said!r})
print("done")
"""


@pytest.mark.parametrize("said", LOST_BY_MPI)
def test_a_launch_that_open_mpi_has_lost_is_made_once_more(tmp_path, said):
    source = FAILS_AT_FIRST.format(said=f"*** {said} ***")
    assert python_ranks(source, 1, "alone", cwd=tmp_path).stdout == "done\n"
    assert (tmp_path / "tries").read_text() == "xx"


def test_any_other_failure_counts_at_once(tmp_path):
    with pytest.raises(AssertionError, match=r"exit status 1(.|\n)*Segmentation fault"):
        python_ranks(FAILS_AT_FIRST.format(said="Segmentation fault"), 1, "alone", cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == "x"
