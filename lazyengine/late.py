"""Names of a package whose modules are imported when they are first asked for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def late_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its modules late.

    What reads run folders needs a few small modules and no torch, whose import takes longer than to compare a thousand
    runs; a package that imported all its modules would bring it in. The names and their modules are those that a type
    checker reads: the imports below ``if TYPE_CHECKING`` in the package's own file.

    Args:
        package: The package's ``__name__``. No name may be that of a module.
    """
    tree = ast.parse(Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8"))
    imports = (node for block in tree.body if isinstance(block, ast.If) for node in block.body)
    module_of = {
        alias.name: "." * node.level + (node.module or "")
        for node in imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of})
