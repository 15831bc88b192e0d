"""What starts the ranks of other tests."""

import pytest
from launch import LOST_BY_MPI, python_ranks

FAILS_AT_FIRST = """
import sys
from pathlib import Path

tries = Path("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= {failures}:
    sys.exit({said!r})
print("done")
"""


def test_a_launch_that_open_mpi_has_lost_is_made_once_more(tmp_path):
    source = FAILS_AT_FIRST.format(said=LOST_BY_MPI, failures=1)
    with pytest.warns(UserWarning, match=LOST_BY_MPI):
        assert python_ranks(source, 1, "alone", cwd=tmp_path).stdout == "done\n"
    assert (tmp_path / "tries").read_text() == "xx"


@pytest.mark.parametrize("said", ["Segmentation fault", "mca_pml_ob1_recv_frag_callback_match in MPI_Recv"])
def test_any_other_failure_counts_at_once(tmp_path, said):
    with pytest.raises(AssertionError, match=rf"exit status 1(.|\n)*{said}"):
        python_ranks(FAILS_AT_FIRST.format(said=said, failures=1), 1, "alone", cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == "x"


def test_a_launch_that_is_lost_twice_has_failed(tmp_path):
    source = FAILS_AT_FIRST.format(said=LOST_BY_MPI, failures=2)
    with pytest.warns(UserWarning), pytest.raises(AssertionError, match="exit status 1"):
        python_ranks(source, 1, "alone", cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == "xx"
