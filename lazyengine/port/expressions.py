"""What a ported config consists of, before it is text: calls, names, symbols in ordinary containers."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 116


@dataclass(frozen=True)
class Symbol:
    """A class or function by its place; an attribute of a symbol is one that is nested in it.

    Attributes:
        module: Module that holds it.
        name: Name in the module; empty for the module itself.
    """

    module: str
    name: str

    def __getattr__(self, name: str) -> Symbol:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.name:  # an attribute of a module is in it, or a module below
            return Symbol(self.module, name)
        return Symbol(f"{self.module}.{self.name}", name)

    def __deepcopy__(self, memo: Any) -> Symbol:
        return self


@dataclass
class Call:
    """A node: `LazyCall(target)(**arguments)`.

    Attributes:
        target: What is called; a string stays a string in the config, which imports it when it is built.
        arguments: By name.
        partial: Whether it is a `LazyPartial`.
        starred: Name of a dict whose entries are given first, as `**name`.
    """

    target: Symbol | str
    arguments: dict[str, Any] = field(default_factory=dict)
    partial: bool = False
    starred: str | None = None


@dataclass(frozen=True)
class Name:
    """What another top-level name of the config holds; `path` may go on with attributes."""

    path: str


@dataclass
class Joined:
    """The entries of several top-level dicts together."""

    names: tuple[str, ...]


@dataclass
class Code:
    """Python source, with what it imports."""

    text: str
    symbols: tuple[Symbol, ...] = ()


@dataclass
class Missing:
    """A value with the reason why somebody has to look at it."""

    value: Any
    reason: str


REQUIRED = Symbol("lazyengine.config", "REQUIRED")
# A name with an underscore is no entry of a config: the environment may hold secrets.
_BOUND_AS = {Symbol("lazyengine.config", "LazyCall"): "L", Symbol("os", "environ"): "_environ"}


def bare(value: Any) -> Any:
    """Return an expression without the note that somebody has to look at it."""
    return value.value if isinstance(value, Missing) else value


def same(a: Any, b: Any) -> bool:
    """Return whether two expressions are equal, types included: 1 is neither 1.0 nor True."""
    a, b = bare(a), bare(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, Call):
        is_alike = (a.target, a.partial, a.arguments.keys()) == (b.target, b.partial, b.arguments.keys())
        return is_alike and all(same(a.arguments[key], b.arguments[key]) for key in a.arguments)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def inside(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all expressions in one, itself first, each with the Python path that reads it."""
    yield path, value
    if isinstance(value, Call):
        for name, inner in value.arguments.items():
            yield from inside(inner, f"{path}.{name}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from inside(inner, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from inside(inner, f"{path}[{i}]")
    elif isinstance(value, Missing):
        yield from inside(value.value, path)


class Writer:
    """Writes expressions as Python, and gathers what they import.

    Args:
        taken: Names that the file binds already, with what they stand for.
        makes_objects: Whether a call is written as one that makes its object, and not as a node.

    Attributes:
        imports: Module -> names that the text uses, with the name they are bound to.
        inlined: Names in whose place their expressions are written.
    """

    def __init__(self, taken: dict[str, Symbol] | None = None, *, makes_objects: bool = False):
        self.imports: dict[str, dict[str, str]] = {}
        self.inlined: dict[str, Any] = {}
        self._taken = dict(taken or {})
        self._makes_objects = makes_objects

    def name(self, symbol: Symbol) -> str:
        """Return the name that a symbol is bound to; a second class of the same name gets its module's in front."""
        outer, _, rest = symbol.name.partition(".")
        held = Symbol(symbol.module, outer)
        bound = _BOUND_AS.get(held, outer)
        while self._taken.get(bound, held) != held:
            above = symbol.module.split(".")[-1]
            bound = f"{bound}_" if bound.startswith(above) else f"{above}_{outer}"
        self._taken[bound] = held
        self.imports.setdefault(symbol.module, {})[outer] = bound
        return f"{bound}.{rest}" if rest else bound

    def text(self, value: Any, indent: int = 0, used: int = 0) -> str:
        """Return an expression as Python; one that does not fit the line is broken after its bracket.

        Args:
            value: The expression.
            indent: Spaces before the lines that follow.
            used: Characters that already stand on the line.
        """
        opening, parts, closing = self._parts(value)
        if parts is None:
            return opening
        flat = opening + ", ".join(prefix + self.text(inner) for prefix, inner in parts) + closing
        if closing == ")" and opening == "(" and len(parts) == 1:
            flat = f"{flat[:-1]},)"
        if used + len(flat) <= WIDTH and "\n" not in flat:
            return flat
        space = " " * (indent + 4)
        lines = [f"{space}{pre}{self.text(inner, indent + 4, indent + 5 + len(pre))}," for pre, inner in parts]
        if all(not pre and isinstance(inner, int | float | str) for pre, inner in parts):
            lines = _filled(lines, space)
        return "\n".join([opening, *lines, " " * indent + closing])

    def _parts(self, value: Any) -> tuple[str, list[tuple[str, Any]] | None, str]:
        if isinstance(value, Missing):
            return self._parts(value.value)
        if isinstance(value, Name) and value.path in self.inlined:
            return self._parts(self.inlined[value.path])
        if isinstance(value, Call):
            target = self._atom(value.target) if isinstance(value.target, str) else self.name(value.target)
            if self._makes_objects:
                opening = f"{target.strip(chr(34)).rpartition(':')[2]}("
            else:
                factory = Symbol("lazyengine.config", "LazyPartial" if value.partial else "LazyCall")
                opening = f"{self.name(factory)}({target})("
            parts: list[tuple[str, Any]] = [("**", Name(value.starred))] if value.starred else []
            named = {k: v for k, v in value.arguments.items() if _is_keyword(k)}
            parts += [(f"{key}=", inner) for key, inner in named.items()]
            if len(named) < len(value.arguments):
                parts.append(("**", {k: v for k, v in value.arguments.items() if k not in named}))
            return opening, parts, ")"
        if isinstance(value, dict):
            if value and all(_is_keyword(key) for key in value):
                return "dict(", [(f"{key}=", inner) for key, inner in value.items()], ")"
            return "{", [(f"{self.text(key)}: ", inner) for key, inner in value.items()], "}"
        if isinstance(value, list | tuple):
            return "[("[isinstance(value, tuple)], [("", inner) for inner in value], "])"[isinstance(value, tuple)]
        return self._atom(value), None, ""

    def _atom(self, value: Any) -> str:
        if isinstance(value, Name):
            return value.path
        if isinstance(value, Joined):
            return "{" + ", ".join(f"**{name}" for name in value.names) + "}"
        if isinstance(value, Symbol):
            return self.name(value)
        if isinstance(value, Code):
            for symbol in value.symbols:
                self.name(symbol)
            return value.text
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, str):
            double = repr(f"{value}'")  # forced to double quotes, unless it holds both
            return f'{double[:-2]}"' if double.startswith('"') else repr(value)
        return repr(value)


def _is_keyword(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _filled(lines: list[str], space: str) -> list[str]:
    """Put many short items on lines as long as they may be."""
    packed = [space]
    for line in lines:
        item = line.strip()
        if len(packed[-1]) + len(item) + 1 > WIDTH and packed[-1] != space:
            packed.append(space)
        packed[-1] += item if packed[-1] == space else f" {item}"
    return packed


_INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+|\[\d+\])*$")
REF = Symbol("lazyengine.config", "ref")


def ref_text(text: str, place: Sequence[str]) -> str | None:
    """Return `ref(...)` for a text with OmegaConf's interpolations, or None where one is no path.

    Args:
        text: Such as `"${..width}"` or `"w${model.width}"`.
        place: Keys from the top-level name to the text; `"*"` for one that a path cannot name.
    """

    def absolute(reference: str) -> str | None:
        path = reference.lstrip(".")
        dots = len(reference) - len(path)
        above = list(place[: len(place) - dots]) if dots else []
        named = _PATH.match(path) and "*" not in above and (above or not dots)
        return ".".join([*above, path]) if named else None

    paths = [absolute(each) for each in _INTERPOLATION.findall(text)]
    if not paths or None in paths or "${" in _INTERPOLATION.sub("", text):
        return None
    quoted = ", ".join(f'"{path}"' for path in paths)
    if _INTERPOLATION.fullmatch(text):
        return f"ref({quoted})"
    names = [f"v{i}" for i in range(len(paths))]
    slots = iter(names)
    literal = _INTERPOLATION.sub(lambda _: "{" + next(slots) + "}", text)
    return f"ref({quoted}, lambda {', '.join(names)}: f{literal!r})"


def import_lines(imports: dict[str, dict[str, str]]) -> list[str]:
    """Return import statements, sorted: the standard library and others, then lazyengine's.

    Args:
        imports: Module -> names that are imported from it, with the name they are bound to.
    """
    lines = []
    for module, names in sorted(imports.items(), key=lambda item: (item[0].startswith("lazyengine"), item[0])):
        parts = [name if name == bound else f"{name} as {bound}" for name, bound in sorted(names.items())]
        line = f"from {module} import {', '.join(parts)}"
        lines += [line] if len(line) <= WIDTH else [f"from {module} import (", *(f"    {p}," for p in parts), ")"]
    return lines
