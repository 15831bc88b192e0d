"""Make pip forget the packages of a folder that are only partly installed, and print their names.

A whole package has the list of its files, which pip writes last, and each of them in its length. What pip has set aside
to replace it, under names that begin with ~, goes too.
"""

import csv
import shutil
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def is_whole(package: Distribution) -> bool:
    # package.files leaves out those that are missing, from Python 3.12 on
    record = package.read_text("RECORD")
    return record is not None and all(
        not size or ((file := Path(str(package.locate_file(name)))).is_file() and file.stat().st_size == int(size))
        for name, _, size in csv.reader(record.splitlines())
    )


site = Path(sys.argv[1])
for aside in site.glob("~*"):
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
broken = [package for package in distributions(path=[str(site)]) if not is_whole(package)]
for package in broken:
    shutil.rmtree(package._path)  # type: ignore[attr-defined]
print(*(package._path.name.removesuffix(".dist-info") for package in broken), sep=", ")  # type: ignore[attr-defined]
