"""How the files of the package stand to one another."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lazyengine.config

FOLDER = Path(lazyengine.config.__file__).parent


def imported(file: Path) -> set[str]:
    """The files of the package that a file imports, also inside of functions; not what only type checkers read."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    typing_only = {id(inner) for node in checked for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            absolute = (node.module or "").partition("lazyengine.config")
            if node.level == 1 and node.module:
                found.add(node.module.partition(".")[0])
            elif node.level == 1 or (node.level == 0 and absolute[1] and not absolute[2]):
                found |= {alias.name if (FOLDER / f"{alias.name}.py").exists() else "__init__" for alias in node.names}
            elif node.level == 0 and absolute[1]:
                found.add(absolute[2].split(".")[1])
    return found


def test_no_file_imports_itself_by_a_circle_also_not_late():
    graph = {file.stem: imported(file) for file in FOLDER.glob("*.py")}
    assert graph["__init__"]
    TopologicalSorter(graph).prepare()  # raises with the circle


def test_the_package_needs_nothing_of_the_engine_but_its_floor():
    allowed = {"interpreter", "errors", "text", "nesting"}
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert (node.module or "").partition(".")[0] in allowed, file.name
