"""Names of a package whose modules are imported when they are first asked for."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

_IMPORT = re.compile(r"^    from (\.\S+) import (?:\(([^)]+)\)|(.+))$", re.MULTILINE)  # below `if TYPE_CHECKING:`


def late_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its modules late.

    What reads run folders needs a few small modules and no torch, whose import takes longer than to compare a thousand
    runs; a package that imported all its modules would bring it in. Which module has a name is read from the imports
    below ``if TYPE_CHECKING:`` in the package's ``__init__.py``, the same that a type checker reads.

    Args:
        package: The package's ``__name__``. No name may be that of a module, nor be imported as another one.
    """
    loader: Any = sys.modules[package].__spec__.loader  # type: ignore[union-attr]
    imports = _IMPORT.findall(re.sub(r" *#.*", "", loader.get_source(package)))
    module_of = {name: module for module, *names in imports for name in re.findall(r"\w+", "".join(names))}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of})
