"""Packages that import their modules late: which names they have, and what that costs nobody who does not ask."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lazyengine"
LATE = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if "late_names(" in path.read_text())


def names_for_type_checkers(package: str) -> set[str]:
    """The names that a type checker reads below ``if TYPE_CHECKING``."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.asname or alias.name for node in block.body for alias in node.names}  # type: ignore[attr-defined]


def test_some_packages_are_late():
    assert {"checkpoint", "evaluator", "logging", "runs"} <= set(LATE)


@pytest.mark.parametrize("name", LATE)
def test_a_late_package_has_the_names_that_a_type_checker_reads(name):
    package = import_module(f"lazyengine.{name}")
    assert set(package.__all__) == names_for_type_checkers(name)
    assert set(package.__all__) <= set(dir(package))
    for each in package.__all__:
        assert getattr(package, each) is vars(package)[each]
    with pytest.raises(AttributeError, match=f"module 'lazyengine.{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_importing_them_imports_none_of_their_modules():
    imports = "".join(f"import lazyengine.{name}; " for name in LATE)
    found = "[m for m in sys.modules if m == 'torch' or m.count('.') > 1 and m.startswith('lazyengine')]"
    code = f"import sys; {imports}print({found})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert run.stdout.strip() == "[]"


def test_the_package_itself_gives_its_subpackages_when_they_are_asked_for():
    program = (
        "import sys, lazyengine; before = [m for m in sys.modules if m.startswith('lazyengine.')]; "
        "print(before, lazyengine.runs.load.__name__, hasattr(lazyengine, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] load False"
