"""Collect the measurements of jobs/gpu.sh: python jobs/gpu_table.py FOLDER writes gpu.json and gpu.md into it."""

import json
import sys
from pathlib import Path
from typing import Any

HEAD = "measurement | what | ms, median | quartiles | ratios of medians\n--- | --- | --- | --- | ---\n"


def measurements(folder: Path) -> dict[str, Any]:
    """Return the results of `hvdclip bench`, by the names of the files."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    return {name: made for name, made in found.items() if "bench" in made}


def row(measurement: str, peer: str, numbers: dict[str, Any]) -> str:
    first, third = (f"{1000 * seconds:.4g}" for seconds in numbers["quartiles"])
    ratios = ", ".join(f"{ratio['of_medians']:.3f} {name}" for name, ratio in numbers["ratios"].items())
    return f"{measurement} | {peer} | {1000 * numbers['median']:.4g} | {first} to {third} | {ratios}\n"


def page(made: dict[str, Any], tests: str) -> str:
    """Return the Markdown page: the card, the versions, the tests, a table of all times."""
    one = next(iter(made.values()))
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    cards = ", ".join(sorted(set(one["gpus"]))) or "no GPU"
    text = f"# {cards}\n\n{one['time']}, {one['ranks']} rank, {versions}.\n\n`tests/test_gpu.py`: {tests}\n\n{HEAD}"
    for measurement, of in made.items():
        text += "".join(row(measurement, peer, numbers) for peer, numbers in of["peers"].items())
    return text


def main(folder: Path) -> None:
    made = measurements(folder)
    if not made:
        sys.exit(f"{folder} has no JSON file of hvdclip bench: none of its measurements ended well")
    log = folder / "tests.txt"
    tests = log.read_text().strip().splitlines()[-1] if log.exists() else "not run"
    (folder / "gpu.json").write_text(json.dumps({"tests": tests, "measurements": made}, indent=1) + "\n")
    (folder / "gpu.md").write_text(page(made, tests))


main(Path(sys.argv[1]))
