"""docs/architecture.md and CONTRIBUTING.md name what there is."""

import ast
import re
from pathlib import Path

import pytest
from conftest import PROJECT
from test_structure import graph

LIBRARY = PROJECT / "hvdclip"
ARCHITECTURE = (PROJECT / "docs/architecture.md").read_text()
PAGES = {"architecture.md": ARCHITECTURE, "CONTRIBUTING.md": (PROJECT / "CONTRIBUTING.md").read_text()}


def members(chosen: ast.ClassDef) -> set[str]:
    """The names that the body of a class defines, and those of its instances."""
    found = set()
    for node in ast.walk(chosen):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def classes() -> dict[str, dict[Path, set[str]]]:
    """By name and file, the members of all classes of hvdclip."""
    found: dict[str, dict[Path, set[str]]] = {}
    for file in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, {})[file.relative_to(LIBRARY)] = members(node)
    return found


CLASSES = classes()


@pytest.mark.parametrize("page", PAGES)
def test_its_paths_are_there(page):
    quoted = re.findall(r"`((?:\.ci|[\w*]+)/[\w/.*]*)`", PAGES[page])
    paths = {*quoted, *re.findall(r"(?<![\w/.])(?:hvdclip|jobs|tests|docs|slurm)/[\w/]+(?:\.\w+)?", PAGES[page])}
    assert len(paths) > 5
    missing = [path for path in sorted(paths) if not ((PROJECT / path).exists() or (LIBRARY / path).exists())]
    assert not missing


def test_its_tree_has_all_packages_in_the_order_of_their_imports():
    tree = re.search(r"```text\n(.*?)```", ARCHITECTURE, re.DOTALL)[1]
    order = re.findall(r"^hvdclip/(\w+)", tree, re.MULTILINE)
    imported = graph()
    assert set(order) == set(imported) - {"", "__main__"}
    for place, name in enumerate(order):
        assert imported[name] - {""} <= set(order[:place]), name


def test_its_classes_and_their_members_are_there():
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`(?: \(`([\w/]+\.py)`\)| in `([\w/]+\.py)`)?", ARCHITECTURE)
    assert len(named) > 30
    for name, member, *files in named:
        assert name in CLASSES, name
        assert any(member in known for known in CLASSES[name].values()), f"{name}.{member}"
        for file in filter(None, files):
            assert member in CLASSES[name].get(Path(file), ()), f"{name}.{member} in {file}"


def test_its_other_names_are_in_the_code():
    source = "\n".join(file.read_text() for file in LIBRARY.rglob("*.py"))
    for name in re.findall(r"`([A-Z][A-Za-z_]+)`", ARCHITECTURE):
        assert re.search(rf"^ *(class {name}\b|{name}\b.* = |[\w, ]+, {name}\b.* = )", source, re.MULTILINE), name
