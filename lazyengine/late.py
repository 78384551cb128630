"""Names of a package whose modules are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def late_names(
    package: str, homes: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its modules late.

    What reads run folders needs a few small modules and no torch, whose import takes longer than to compare a thousand
    runs; a package that imported all its modules would bring it in. A type checker reads the same names from the
    imports below ``if TYPE_CHECKING``.

    Args:
        package: The package's ``__name__``.
        homes: The names that each module defines, by the module as ``from`` spells it. No name may be that of a module.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of})
