"""Where configs/, slurm/ and jobs/ are: next to hvdclip/ in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_LIBRARY = Path(__file__).parent
# setup.py makes this folder, in wheels only
PACKED = _LIBRARY / "_project"
_FROM_WHEEL = PACKED.is_dir()
_FOLDER = PACKED if _FROM_WHEEL else _LIBRARY.parent
# the command that installs Horovod
SET_UP = "hvdclip setup-horovod" if _FROM_WHEEL else "jobs/setup.sh"


def part(name: str) -> Path:
    """A file or folder by its path in a checkout; FileNotFoundError in a copy of hvdclip/ alone."""
    place = _FOLDER / name
    if not place.exists():
        raise FileNotFoundError(f"{place} is missing: install hvdclip with pip, or use a complete checkout")
    return place


def configuration(path: Path) -> Path:
    """The file itself, or the packed configuration of that name, with or without .yaml, if there is no such file."""
    packed = _FOLDER / "configs" / f"{path.name.removesuffix('.yaml')}.yaml"
    return packed if path == Path(path.name) and not path.is_file() and packed.is_file() else path
