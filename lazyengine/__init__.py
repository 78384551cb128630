"""lazyengine: a PyTorch training engine whose experiments are Python files.

Import what you need from the subpackages; this module imports none of them before they are asked for, so that
``import lazyengine.config`` stays free of torch.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

__version__ = "0.2.0"


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first asked for: `lazyengine.runs.load` after `import lazyengine`."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
