"""How the code is laid out: packages that import each other one way, short functions, a sentence for each package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hvdclip

LIBRARY = Path(hvdclip.__file__).parent
MODULES = sorted(LIBRARY.rglob("*.py"))
LONGEST = 40


def parts(module: str) -> str:
    """The sub-package, or the module beside them, that a module of hvdclip's is in; hvdclip itself has no name."""
    return module.split(".")[1] if "." in module else ""


def owner(file: Path) -> str:
    return parts(".".join(("hvdclip", *file.relative_to(LIBRARY).with_suffix("").parts)).removesuffix(".__init__"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported, inside functions too; what only the type checker imports is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module == "hvdclip":
            yield from (f"hvdclip.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        yield from imports(node)


def graph() -> dict[str, set[str]]:
    """By sub-package, those that it imports; a name that hvdclip itself has (its version, say) is no sub-package."""
    names = {owner(file) for file in MODULES}
    found: dict[str, set[str]] = {name: set() for name in names}
    for file in MODULES:
        for module in imports(ast.parse(file.read_text())):
            if module.partition(".")[0] == "hvdclip":
                found[owner(file)].add(parts(module) if parts(module) in names else "")
        found[owner(file)].discard(owner(file))
    return found


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One that there is, or nothing."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for after in sorted(edges[path[-1]] - done):
            if after in path:
                return [*path[path.index(after) :], after]
            if found := search([*path, after]):
                return found
        done.add(path[-1])
        return []

    return next(filter(None, (search([name]) for name in sorted(edges) if name not in done)), [])


def test_no_package_imports_one_that_imports_it():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    found = cycle(graph())
    assert not found, " -> ".join(name or "hvdclip" for name in found)


def test_functions_are_short():
    functions = (
        (file, node)
        for file in MODULES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {
        f"{file.relative_to(LIBRARY)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file, node in functions
    }
    assert not {where: length for where, length in lengths.items() if length > LONGEST}


def test_every_package_says_in_a_sentence_what_it_is():
    for file in LIBRARY.rglob("__init__.py"):
        said = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
        assert re.fullmatch(r"[^\n]+\.", said) and not re.search(r"\. [A-Z]", said), f"{file}: {said!r}"
