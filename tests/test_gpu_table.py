"""jobs/gpu_table.py puts what hvdclip bench has measured into one table; measured here on a CPU."""

import json
import subprocess
import sys

from conftest import PROJECT

from hvdclip.cli import main


def test_all_measurements_in_one_table(tmp_path):
    line = [
        "bench",
        "step",
        "--shape",
        "small",
        "--blocks",
        "1",
        "--device",
        "cpu",
        "--json",
        str(tmp_path / "step.json"),
    ]
    main(line, standalone_mode=False)
    made = json.loads((tmp_path / "step.json").read_text())
    made["gpus"] = ["NVIDIA X", "NVIDIA X"]
    (tmp_path / "step.json").write_text(json.dumps(made))
    (tmp_path / "tests.txt").write_text("....\n4 passed in 3.00s\n")
    for _ in range(2):  # the second time gpu.json is there, and no measurement
        subprocess.run([sys.executable, PROJECT / "jobs/gpu_table.py", tmp_path], check=True)
    assert json.loads((tmp_path / "gpu.json").read_text()) == {
        "tests": "4 passed in 3.00s",
        "measurements": {"step": made},
    }
    head, *lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert head == "# NVIDIA X" and "`tests/test_gpu.py`: 4 passed in 3.00s" in lines
    rows = [line.split(" | ") for line in lines if line.startswith("step | ")]
    assert [(name, float(ms)) for _, name, ms, *_ in rows] == [
        (name, float(f"{1000 * peer['median']:.4g}")) for name, peer in made["peers"].items()
    ]
    assert all(
        f"{peer['ratios']['to floor']['of_medians']:.3f} to floor" in row[4]
        for row, peer in zip(rows, made["peers"].values(), strict=True)
    )


def test_a_folder_without_measurements(tmp_path):
    done = subprocess.run([sys.executable, PROJECT / "jobs/gpu_table.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == (
        f"{tmp_path} has no JSON file of hvdclip bench: none of its measurements ended well\n"
    )
