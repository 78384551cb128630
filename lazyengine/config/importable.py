"""Names of classes, functions and constants: from an object to `module:name` and, through an allowlist, back."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

from .errors import SaveError

DEFAULT_ALLOW = ("lazyengine", "torch", "torchvision", "torchmetrics", "transformers", "timm", "numpy", "collections")
"""The modules, with all below them, whose classes and functions a saved config may name."""

# What runs or unpickles whatever it is given is refused even below an allowed module; naming it in `allow` permits it.
_NEVER = """lazyengine.cli lazyengine.config numpy.f2py numpy.lib torch._dynamo torch._inductor torch.hub torch.jit
    torch.multiprocessing torch.package torch.serialization torch.utils.cpp_extension""".split()  # noqa: SIM905
_BUILTINS = (bool, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple, abs, len, max, min)


def importable_name(value: Any) -> str | None:
    """Return the `module:qualified.name` from which importing gives this very object, or None.

    The module is the shortest public one: `torch.optim` rather than `torch.optim.sgd`.
    """
    module, name = _own_name(value)
    if module and name and module != "__main__":
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            place = ".".join(parts[:length])
            for spelled in (name, name.rpartition(".")[2]):  # torch.arange says _VariableFunctionsClass.arange
                if _look_up(place, spelled) is value:
                    return f"{place}:{spelled}"
    if isinstance(value, types.MethodType) and isinstance(value.__self__, type):  # Model.from_pretrained
        owner = importable_name(value.__self__)
        if owner and getattr(value.__self__, value.__name__, None) == value:
            return f"{owner}.{value.__name__}"
    return None


def _own_name(value: Any) -> tuple[str | None, str | None]:
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return _module_of(value), value.__qualname__
    if isinstance(value, types.MethodType | types.ModuleType):
        return None, None
    try:
        reduced = value.__reduce_ex__(2)  # constants such as torch.float32 name themselves
    except Exception:  # whatever cannot be pickled has no name either
        return None, None
    return (_module_of(value), reduced) if isinstance(reduced, str) else (None, None)


def _module_of(value: Any) -> str | None:
    module = getattr(value, "__module__", None)
    if module is None:  # functions written in C may know their module only so
        owner = getattr(value, "__self__", None)
        if isinstance(owner, types.ModuleType):
            return owner.__name__
        module = getattr(owner if isinstance(owner, type) else type(owner), "__module__", None)
    return module if isinstance(module, str) else None


def _look_up(module: str, name: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def is_allowed(module: str, allow: Sequence[str]) -> bool:
    """Whether a module is one of `allow` or below one, and none of those that run what they are given."""

    def below(prefixes: Sequence[str]) -> list[str]:
        return [prefix for prefix in prefixes if module == prefix or module.startswith(prefix + ".")]

    refused = below(_NEVER)
    return any(not refused or len(prefix) >= len(refused[0]) for prefix in below(allow))


def resolve_name(name: str, allow: Sequence[str] | None, path: str) -> Any:
    """Import what `module:qualified.name` names, if the allowlist has the module and that which the object is from.

    Args:
        name: The name as a file gives it.
        allow: Modules, with all below them; None for a trusted file, which may name everything.
        path: Where in the config it stands, for messages.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise SaveError(f"{path}: {name!r} is not a name of the form 'package.module:Class'.")
    if module == "builtins" and allow is not None:
        found = next((b for b in _BUILTINS if b.__name__ == attribute), None)
        if found is None:
            raise _refusal(path, name, "builtins")
        return found
    if allow is not None and not is_allowed(module, allow):
        raise _refusal(path, name, module)
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
            if isinstance(value, types.ModuleType):
                raise _refusal(path, name, value.__name__)
    except (ImportError, AttributeError) as error:
        raise SaveError(f"{path}: cannot import {name!r}: {error}.") from error
    if allow is not None:
        check_allowed(value, allow, path, name)
    return value


def check_allowed(value: Any, allow: Sequence[str], path: str, name: str) -> None:
    """Check where an imported object really is from: `os.system` is not torch's because torch imports `os`."""
    owners = [value]
    if isinstance(value, types.MethodType):
        owners = [value.__func__, value.__self__ if isinstance(value.__self__, type) else type(value.__self__)]
    elif not isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        owners = [type(value)]  # a constant, or a callable object such as functools.partial(os.system)
    for owner in owners:
        module = _module_of(owner)
        if not module or not is_allowed(module, allow):
            raise _refusal(path, name, module or "an unknown module")


def _refusal(path: str, name: str, module: str) -> SaveError:
    root = module.partition(".")[0]
    return SaveError(
        f"{path}: {name!r} is refused: it is from {module}, which the allowlist does not have. If you trust this file, "
        f"pass allow=(..., {module if is_allowed(root, DEFAULT_ALLOW) else root!r})."
    )
