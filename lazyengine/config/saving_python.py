"""Configs as Python: the document of `saving_json`, printed as a file with real imports that loads from any folder."""

from __future__ import annotations

import base64
import builtins
import keyword
import os
import sys
from types import BuiltinFunctionType, FunctionType
from typing import Any

from .node import Config
from .saving_json import Encoder

_WIDTH = 110


class _Group:
    """An expression with items between brackets, on one line or on several."""

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


def _render(expression: Any, indent: int = 0, used: int = 0) -> str:
    return expression if isinstance(expression, str) else expression.render(indent, used)


def to_python(cfg: Config) -> str:
    """Return the config as the text of a Python file that loads as an equal config.

    Raises:
        SaveError: A value contains itself, or cannot even be pickled.
    """
    return write_python(cfg)[0]


def write_python(cfg: Config) -> tuple[str, list[str]]:
    """Return what `to_python` does, and the paths of leaves that only cloudpickle could write."""
    encoder = Encoder(as_code=True)
    writer = _Writer(encoder.values(cfg), encoder.shared)
    source = os.path.basename(cfg.__file__) if cfg.__file__ else "memory"
    lines = [f'"""Saved by lazyengine from {source}. A config like any other: change it, import it, run it."""', ""]
    return "\n".join([*lines, *writer.import_lines(), "", *writer.statements]) + "\n", encoder.pickled


class _Writer:
    def __init__(self, values: dict[str, Any], shared: dict[str, Any]):
        self.taken = set(values) | set(keyword.kwlist)
        self.imports: dict[tuple[str, str], str] = {}
        self.statements: list[str] = []
        self.variables: dict[str, str] = {}  # path of something shared -> the variable that holds it
        self.shared = {id(document): path for path, document in shared.items()}
        self.names: dict[str, str] = {}  # path of something shared -> the top-level name that it also has
        for name, document in values.items():
            path = name if name in shared else document.get("$same") if type(document) is dict else None
            if path is not None:
                self.names.setdefault(path, name)
        for name, document in values.items():
            if name not in self.variables.values():  # else written already, before what uses it
                self.statement(name, self.expression(document, name))

    def statement(self, name: str, expression: Any) -> None:
        self.statements.append(f"{name} = {_render(expression, 0, len(name) + 3)}")

    def import_lines(self) -> list[str]:
        lines: dict[str, list[str]] = {}
        for (module, name), alias in sorted(self.imports.items()):
            if module != "builtins" or alias != name:
                lines.setdefault(module, []).append(name if alias == name else f"{name} as {alias}")
        roots = sorted({root for module in lines if (root := _root_of(module)) is not None})
        out = ["import sys", ""] if roots else []
        for root in roots:  # so that the file also runs outside of its repository
            out += [f"if {root!r} not in sys.path:", f"    sys.path.append({root!r})", ""]
        for module, names in lines.items():
            one = f"from {module} import {', '.join(names)}"
            out.append(one if len(one) <= _WIDTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)")
        return out

    def name_of(self, name: str) -> str:
        """Import `module:name` and return what it is called in the file."""
        module, _, qualname = name.partition(":")
        top, dot, rest = qualname.partition(".")
        if (module, top) not in self.imports:
            held = getattr(sys.modules.get(module), top, None)
            hidden = not isinstance(held, type | FunctionType | BuiltinFunctionType)  # data would become a value
            alias = f"_{top}" if hidden else top
            while alias in self.taken or (hasattr(builtins, alias) and module != "builtins"):
                alias = f"{alias}_" if alias.startswith("_") else f"_{alias}"
            self.taken.add(alias)
            self.imports[module, top] = alias
        return self.imports[module, top] + dot + rest

    def expression(self, document: Any, top: str = "") -> Any:
        """Return the expression of a document, that of the top-level name `top`; what is shared is a variable."""
        path = self.shared.get(id(document)) if isinstance(document, list | dict) else None
        if path is None:
            return self.form(document)
        if path == top:
            self.variables[path] = top
            return self.form(document)
        result = self.form(document)
        self.variables[path] = name = self.names.get(path) or self.new_name(document)
        self.statement(name, result)
        return name

    def new_name(self, document: Any) -> str:
        target = document.get("$call", document.get("$partial")) if type(document) is dict else None
        label = target.rpartition(":")[2].rpartition(".")[2].lower() if isinstance(target, str) else "shared"
        base = name = f"_{label}"
        number = 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name

    def form(self, document: Any) -> Any:
        if type(document) is list:
            return _Group("[", self.items(document), "]")
        if type(document) is not dict:
            return repr(document)
        tag = next(iter(document), "")
        if tag[:1] != "$":
            return _Group("{", [(f"{k!r}: ", self.expression(v)) for k, v in document.items()], "}")
        value = document[tag]
        if tag in ("$call", "$partial"):
            return self.node(document, value)
        if tag in ("$array", "$npy"):
            return self.array(document, value)
        match tag:
            case "$same":
                return self.variables[value]
            case "$int":
                return value
            case "$bytes":
                return repr(base64.b64decode(value))
            case "$tuple":
                return _Group("(", self.items(value), ")")
            case "$set" if value:
                return _Group("{", self.items(value), "}")
            case "$dict":
                return _Group("{", [(f"{_render(self.form(k))}: ", self.expression(v)) for k, v in value], "}")
            case "$odict":
                return self.call("collections:OrderedDict", [[{"$tuple": pair} for pair in value]])
            case "$set" | "$frozenset":
                return self.call(f"builtins:{tag[1:]}", [{"$set": value}] if value else [])
            case "$float":
                return self.call("builtins:float", [value])
            case "$complex":
                return self.call("builtins:complex", value)
            case "$required":
                return self.name_of("lazyengine.config:REQUIRED")  # the loader knows that it is no data
            case "$ref":
                function = [document["$function"]] if "$function" in document else []
                return self.call("lazyengine.config:ref", value + function)
            case "$enum":
                return f"{self.name_of(value)}.{document['$name']}"
            case "$path":
                return self.call(f"pathlib:{document['$kind']}", [value])
            case "$namedtuple":
                return self.call(value, document["$items"])
            case "$make":
                return self.call(value, document["$args"])
            case "$object":
                return self.name_of(value)
        return f"{self.name_of('pickle:loads')}({self.name_of('base64:b64decode')}({value!r}))"

    def items(self, documents: list[Any]) -> list[tuple[str, Any]]:
        return [("", self.expression(document)) for document in documents]

    def call(self, name: str, arguments: list[Any]) -> _Group:
        return _Group(f"{self.name_of(name)}(", self.items(arguments), ")")

    def node(self, document: Any, target: Any) -> Any:
        if document.get("$deferred"):
            called = repr(target)
        else:
            called = self.name_of(target) if isinstance(target, str) else self.form(target)
        items = self.items(document.get("$args", []))
        odd: list[tuple[str, Any]] = []
        for name, argument in document.get("$with", {}).items():
            if name.isidentifier() and not keyword.iskeyword(name):
                items.append((f"{name}=", self.expression(argument)))
            else:
                odd.append((f"{name!r}: ", self.expression(argument)))
        if odd:
            items.append(("**", _Group("{", odd, "}")))
        maker = self.name_of(f"lazyengine.config:{'LazyPartial' if '$partial' in document else 'LazyCall'}")
        return _Group(f"{maker}({called})(", items, ")")

    def array(self, document: Any, value: Any) -> str | _Group:
        if "$npy" in document:
            raw = f"{self.name_of('io:BytesIO')}({self.name_of('base64:b64decode')}({value!r}))"
            return f"{self.name_of('numpy:load')}({raw}){'[()]' if '$scalar' in document else ''}"
        shape = document["$shape"]
        reshape = f".reshape({tuple(shape)})" if len(shape) > 1 else "[()]" if "$scalar" in document else ""
        data = self.form(value) if shape else self.form(value[0])
        items = [("", data), ("dtype=", repr(document["$dtype"]))]
        return _Group(f"{self.name_of('numpy:array')}(", items, f"){reshape}")


def _root_of(module: str) -> str | None:
    """The folder that must be on `sys.path` for a module that is not installed."""
    top = sys.modules.get(module.partition(".")[0])
    file = getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", ())), None)
    if file is None or top is None or top.__name__ == "lazyengine":
        return None
    root = os.path.dirname(file)
    if hasattr(top, "__path__") and getattr(top, "__file__", None):
        root = os.path.dirname(root)
    installed = ("site-packages", "dist-packages")
    is_stdlib = root.startswith(os.path.dirname(os.__file__))
    return None if is_stdlib or any(part in root.split(os.sep) for part in installed) else root
