"""Configs as Python: a file with real imports that loads again, from any folder."""

from __future__ import annotations

import base64
import builtins
import enum
import keyword
import math
import os
import pathlib
import sys
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType
from typing import Any

from .errors import SaveError
from .graph import FrozenDict, FrozenList
from .importable import importable_name
from .loaded import Config
from .node import REQUIRED, Node, children_of, is_partial, join_path, target_of, walk
from .ref import Ref
from .saving_json import pickle_leaf

__all__ = ["to_python", "write_python"]

_WIDTH = 110
_SHARED = (Node, list, dict, OrderedDict, FrozenList, FrozenDict)


class _Group:
    """An expression with items between brackets, on one line or on several."""

    __slots__ = ("close", "items", "open")

    def __init__(self, open: str, items: list[tuple[str, Any]], close: str):
        self.open, self.items, self.close = open, items, close

    def render(self, indent: int, used: int) -> str:
        """Print the expression; `used` is how much of its first line is taken."""
        line = self.line()
        if used + len(line) <= _WIDTH or not self.items:
            return line
        margin = " " * (indent + 4)
        items = (f"{margin}{p}{_render(e, indent + 4, indent + 5 + len(p))},\n" for p, e in self.items)
        return f"{self.open}\n{''.join(items)}{' ' * indent}{self.close}"

    def line(self) -> str:
        inner = ", ".join(p + (e if isinstance(e, str) else e.line()) for p, e in self.items)
        comma = "," if len(self.items) == 1 and self.open == "(" else ""
        return f"{self.open}{inner}{comma}{self.close}"


def _render(expression: Any, indent: int, used: int) -> str:
    return expression if isinstance(expression, str) else expression.render(indent, used)


def to_python(cfg: Config) -> str:
    """Return the config as the text of a Python file that loads as an equal config.

    Raises:
        SaveError: A value contains itself, or cannot even be pickled.
    """
    return write_python(cfg)[0]


def write_python(cfg: Config) -> tuple[str, list[str]]:
    """Return what `to_python` does, and the paths of leaves that only cloudpickle could write."""
    writer = _Writer(cfg)
    for name in cfg.__values__:
        writer.top(name)
    source = os.path.basename(cfg.__file__) if cfg.__file__ else "memory"
    lines = [f'"""Saved by lazyengine from {source}. A config like any other: change it, import it, run it."""', ""]
    return "\n".join([*lines, *writer.import_lines(), "", *writer.statements]) + "\n", writer.pickled


class _Writer:
    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.taken = set(cfg.__values__) | set(keyword.kwlist)
        self.imports: dict[tuple[str, str], str] = {}
        self.statements: list[str] = []
        self.pickled: list[str] = []
        self.variables: dict[int, str] = {}
        self.active: set[int] = set()
        self.done: set[str] = set()
        self.uses: dict[int, int] = {}
        self.names: dict[int, str] = {}
        for _, parent in walk(cfg):
            for _, child in children_of(parent) or ():
                if type(child) in _SHARED:
                    self.uses[id(child)] = self.uses.get(id(child), 0) + 1
        for name, value in cfg.__values__.items():
            if type(value) in _SHARED:
                self.names.setdefault(id(value), name)

    # ---------------------------------------------------------------------------------------- statements
    def top(self, name: str) -> None:
        """Write the statement of a top-level name, once; what it uses comes before it."""
        if name not in self.done:
            self.done.add(name)
            value = self.cfg.__values__[name]
            if id(value) in self.variables:  # a second name of the same object
                return self.statement(name, self.variables[id(value)])
            self.statement(name, self.expression(value, name, is_top=True))
            if type(value) in _SHARED:
                self.variables[id(value)] = name

    def statement(self, name: str, expression: Any) -> None:
        self.statements.append(f"{name} = {_render(expression, 0, len(name) + 3)}")

    def import_lines(self) -> list[str]:
        lines: dict[str, list[str]] = {}
        for (module, name), alias in sorted(self.imports.items()):
            if module != "builtins" or alias != name:
                lines.setdefault(module, []).append(name if alias == name else f"{name} as {alias}")
        roots = sorted({root for module in lines if (root := _root_of(module)) is not None})
        out = []
        if roots:
            out = ["import sys", ""]
            for root in roots:  # so that the file also runs outside of its repository
                out += [f"if {root!r} not in sys.path:", f"    sys.path.append({root!r})"]
            out.append("")
        for module, names in lines.items():
            one = f"from {module} import {', '.join(names)}"
            out.append(one if len(one) <= _WIDTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)")
        return out

    def name_of(self, module: str, qualname: str, value: Any = None) -> str:
        """Import an object and return what it is called in the file."""
        top, dot, rest = qualname.partition(".")
        if (module, top) not in self.imports:
            held = getattr(sys.modules.get(module), top, value)
            hidden = not isinstance(held, type | FunctionType | BuiltinFunctionType)  # data would become a value
            alias = f"_{top}" if hidden else top
            while alias in self.taken or (hasattr(builtins, alias) and module != "builtins"):
                alias += "_" if alias.startswith("_") else ""
                alias = alias if alias.startswith("_") else f"_{alias}"
            self.taken.add(alias)
            self.imports[module, top] = alias
        return self.imports[module, top] + dot + rest

    # --------------------------------------------------------------------------------------- expressions
    def expression(self, value: Any, path: str, is_top: bool = False) -> Any:
        """Return the expression of a value; a shared one becomes a variable first."""
        key = id(value)
        if type(value) not in _SHARED:
            return self.leaf(value, path)
        if key in self.variables:
            return self.variables[key]
        if key in self.active:
            raise SaveError(f"{path} contains itself and cannot be saved.")
        if key in self.names and not is_top:
            self.top(self.names[key])
            if key not in self.variables:
                raise SaveError(f"{path} contains itself and cannot be saved.")
            return self.variables[key]
        self.active.add(key)
        result = self.node(value, path) if type(value) is Node else self.container(value, path)
        self.active.discard(key)
        if self.uses.get(key, 0) > 1 and not is_top:
            name = self.variable(value)
            self.statement(name, result)
            self.variables[key] = result = name
        return result

    def variable(self, value: Any) -> str:
        label = value.__sig__.label.rpartition(":")[2].rpartition(".")[2] if type(value) is Node else "shared"
        base = name = f"_{label.lower()}" if label.isidentifier() else "_shared"
        number = 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name

    def node(self, node: Node, path: str) -> Any:
        target, sig, arguments = target_of(node), node.__sig__, node.__arguments__
        if isinstance(target, str):
            called = repr(target)
        else:
            name = importable_name(target)
            called = self.name_of(*name, target) if name else self.pickle(target, f"{path}._target_")
        extra = [key for key in arguments if isinstance(key, int)]
        first = sig.positional if extra else ()
        if missing := [name for name in first if name not in arguments]:
            raise SaveError(f"{path}: {missing[0]!r} must be set, because arguments by position follow it.")
        items = [("", self.expression(arguments[key], join_path(path, key))) for key in [*first, *sorted(extra)]]
        odd: list[tuple[str, Any]] = []
        for name, value in arguments.items():
            if isinstance(name, int) or name in first:
                continue
            expression = self.expression(value, join_path(path, name))
            if name.isidentifier() and not keyword.iskeyword(name):
                items.append((f"{name}=", expression))
            else:
                odd.append((f"{name!r}: ", expression))
        if odd:
            items.append(("**", _Group("{", odd, "}")))
        maker = self.name_of("lazyengine.config", "LazyPartial" if is_partial(node) else "LazyCall", to_python)
        return _Group(f"{maker}({called})(", items, ")")

    def container(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return _Group("[", self.items(value, path), "]")
        pairs = [(self.leaf(k, path), self.expression(v, join_path(path, k))) for k, v in value.items()]
        if type(value) is OrderedDict:
            entries = [("", _Group("(", [("", k), ("", v)], ")")) for k, v in pairs]
            return _Group(f"{self.name_of('collections', 'OrderedDict', OrderedDict)}([", entries, "])")
        return _Group("{", [(f"{_render(k, 0, 0)}: ", v) for k, v in pairs], "}")

    def items(self, value: Any, path: str) -> list[tuple[str, Any]]:
        return [("", self.expression(v, f"{path}[{i}]")) for i, v in enumerate(value)]

    def builtin(self, kind: Any) -> str:
        return self.name_of("builtins", kind.__name__, kind)

    def leaf(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str, bytes):
            return repr(value)
        if kind is int:
            return repr(value) if value.bit_length() < 10000 else hex(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f'{self.builtin(float)}("{value!r}")'
        if kind is complex:
            parts = [("", self.leaf(value.real, path)), ("", self.leaf(value.imag, path))]
            return _Group(f"{self.builtin(complex)}(", parts, ")")
        if kind is tuple:
            return _Group("(", self.items(value, path), ")")
        if kind in (set, frozenset):
            items = sorted(self.items(value, path), key=lambda item: _render(item[1], 0, 0))
            group = _Group("{", items, "}") if items else _Group(f"{self.builtin(set)}(", [], ")")
            return group if kind is set else _Group(f"{self.builtin(frozenset)}(", [("", group)] if items else [], ")")
        if value is REQUIRED:
            return self.name_of("lazyengine.config", "REQUIRED", to_python)  # the loader knows that it is no data
        if kind is Ref:
            items = [("", repr(p)) for p in value.paths]
            if value.function is not None:
                items.append(("", self.leaf(value.function, f"{path} function")))
            return _Group(f"{self.name_of('lazyengine.config', 'ref', to_python)}(", items, ")")
        return self.object(value, kind, path)

    def object(self, value: Any, kind: type, path: str) -> Any:
        cls = importable_name(kind)
        if isinstance(value, enum.Enum) and cls and value.name is not None and value.name in kind.__members__:  # type: ignore[attr-defined]
            return f"{self.name_of(*cls, kind)}.{value.name}"
        if isinstance(value, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
            shown = pathlib.Path if isinstance(value, pathlib.Path) else kind
            return f"{self.name_of('pathlib', shown.__name__, shown)}({str(value)!r})"
        if isinstance(value, tuple) and hasattr(value, "_fields") and cls:
            fields = value._fields  # type: ignore[attr-defined]
            items = [(f"{f}=", e) for f, (_, e) in zip(fields, self.items(value, path))]
            return _Group(f"{self.name_of(*cls, kind)}(", items, ")")
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            array: Any = value
            return self.array(array, isinstance(value, numpy.generic), path)
        if name := importable_name(value):
            return self.name_of(*name, value)
        return self.call_of(value, path)

    def array(self, value: Any, is_scalar: bool, path: str) -> Any:
        if is_scalar and value.dtype.kind in "biuf" and value.itemsize < 9:
            kind = type(value)
            return _Group(f"{self.name_of('numpy', kind.__name__, kind)}(", [("", self.leaf(value.item(), path))], ")")
        exact = value.itemsize <= {"f": 8, "c": 16}.get(value.dtype.kind, value.itemsize)
        if type(value).__name__ != "ndarray" or value.dtype.kind not in "biufcUS" or not exact:
            return self.pickle(value, path)
        dtype = ("dtype=", repr(value.dtype.str))
        if value.size == 0:
            return _Group(f"{self.name_of('numpy', 'zeros')}(", [("", self.leaf(value.shape, path)), dtype], ")")
        return _Group(f"{self.name_of('numpy', 'array')}(", [("", self.leaf_list(value.tolist(), path)), dtype], ")")

    def leaf_list(self, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            return self.leaf(value, path)
        return _Group("[", [("", self.leaf_list(v, path)) for v in value], "]")

    def call_of(self, value: Any, path: str) -> Any:
        """Write an object as the call that pickle would make (torch.device, range, Fraction ...), else pickled."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # what cannot be pickled is reported by the attempt
            reduced = ()
        if isinstance(reduced, tuple) and len(reduced) >= 2 and not any(part is not None for part in reduced[2:]):
            name = importable_name(reduced[0])
            simple = all(v is None or isinstance(v, bool | int | float | str | tuple) for v in reduced[1])
            if name and simple and name[0] != "copyreg":
                return _Group(f"{self.name_of(*name, reduced[0])}(", self.items(reduced[1], path), ")")
        return self.pickle(value, path)

    def pickle(self, value: Any, path: str) -> str:
        self.pickled.append(path)
        data = base64.b64encode(pickle_leaf(value, path)).decode()
        return f"{self.name_of('pickle', 'loads')}({self.name_of('base64', 'b64decode')}({data!r}))"


def _root_of(module: str) -> str | None:
    """The folder that must be on `sys.path` for a module that is not installed."""
    top = sys.modules.get(module.partition(".")[0])
    file = getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", ())), None)
    if file is None or top is None or top.__name__ == "lazyengine":
        return None
    root = os.path.dirname(file)
    if hasattr(top, "__path__"):
        root = os.path.dirname(root) if getattr(top, "__file__", None) else os.path.dirname(file)
    installed = ("site-packages", "dist-packages")
    is_stdlib = root.startswith(os.path.dirname(os.__file__))
    return None if is_stdlib or any(part in root.split(os.sep) for part in installed) else root
