"""Packs what lies beside hvdclip/ in a checkout into the wheel, as hvdclip/_project/. Everything else is in setup.cfg.

A `package_dir` for these folders would do the same, but make an editable install a hook, which editors do not follow.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# hvdclip/project.py finds these, by the same paths as in a checkout
PACKED = (
    "configs",
    "slurm",
    "jobs/setup",
    "jobs/setup_horovod.sh",
    "jobs/env.sh",
    "jobs/prove_horovod.py",
    "setup.cfg",
)


class WithProject(build_py):
    """Copies the modules and, for a wheel, what is packed beside them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            pack(Path(self.build_lib, "hvdclip/_project"))


def pack(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
    for name in PACKED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(name).is_dir():
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(name, target)


setup(cmdclass={"build_py": WithProject})
