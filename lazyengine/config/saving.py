"""Save a config: as Python that runs again, from any folder, or as JSON for diffs and other programs."""

from __future__ import annotations

import base64
import builtins
import contextlib
import dataclasses
import enum
import functools
import hashlib
import io
import itertools
import json
import keyword
import math
import os
import pathlib
import pickle
import re
import sys
import tempfile
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..text import listed
from .errors import ConfigWarning, SaveError, warn
from .finding import is_by_path, is_project_file
from .graph import ATOMIC, COMPARED, children, describe_source, is_equal, join_path, walk
from .loader import load_file
from .node import Config, Node, brief, target_of
from .ref import REQUIRED, Ref, head_of
from .show import Difference, diff

_WITH_IDENTITY = (Node, list, dict, OrderedDict)  # what is written once, however often it is used
_WIDTH = 110


def save(cfg: Config, path: str) -> list[str]:
    """Write a config and return the paths of pickled leaves; the file appears whole or not at all.

    `.py` runs again, from any folder, and is loaded and compared before it appears. Leaves that no import gives (a
    lambda, a local class, an object) are pickled there, and a warning lists them. `.json` has one value a line.
    """
    ending = os.path.splitext(path)[1]
    if ending not in (".py", ".json"):
        raise SaveError(f"Cannot save a config as {path!r}: the name must end with .py or .json.")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise SaveError(f"Cannot save a config as {path!r}: there is no such folder. Make it before.")
    if type(cfg) is Node:
        cfg = Config({"node": cfg})
    if not isinstance(cfg, Config):
        raise SaveError(f"save needs a loaded config, got {type(cfg).__name__}.")
    if ending == ".py" and _is_there(cfg, path):
        return []
    writer = _Writer(cfg)
    text, pickled = (writer.text(), writer.pickled) if ending == ".py" else (to_json(cfg), [])
    folder, base = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f"_{os.path.splitext(base)[0]}_{os.urandom(8).hex()}_being_written{ending}")
    try:  # half of a surrogate pair is spelled \\ud800, in both languages
        with open(temporary, "x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        if ending == ".py":
            _verify(writer.saved, temporary, path)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    if pickled:
        warn(
            f"{os.path.basename(path)}: pickled, because no import gives them: {listed(pickled)}. Functions and "
            "classes in a module of their own would be written by name; write an object as a node, L(Cls)(...)."
        )
    return pickled


def _is_there(cfg: Config, path: str) -> bool:
    """Return whether `path` is the file that the config was loaded from and still holds it: then it stays as it is."""
    if not (cfg.__file__ and os.path.exists(path) and os.path.samefile(path, cfg.__file__)):
        return False
    with contextlib.suppress(Exception):  # what cannot be loaded any more is written anew
        return not _differences(cfg, path)
    return False


def _differences(cfg: Config, file: str) -> list[Difference]:
    """Return how a file, loaded as a config, differs from the config that it is to hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # they were shown when the config itself was loaded
        return diff(cfg, load_file(file))


def check_saving(cfg: Config) -> list[str]:
    """Return why a config could not be saved as Python, an empty list if it can: training saves what it runs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(cfg, os.path.join(folder, "config.py"))
        except SaveError as error:
            return [str(error)]
    return []


def _verify(cfg: Config, file: str, path: str) -> None:
    try:
        found = _differences(cfg, file)
    except Exception as error:
        raise SaveError(f"{path}: the Python that was written for it does not load: {error}") from error
    if found:
        raise SaveError(f"{path}: the Python that was written for it does not give an equal config: {found[0]}.")


def to_json(cfg: Config) -> str:
    """Return the config as JSON text with one value a line.

    A node is `{"$call": "torch.optim:SGD", "$with": {"lr": 0.1}}`, with `$partial` instead of `$call` for `LazyPartial`
    and `$args` for extra arguments by position. What stands in several places is written at the first; the others are
    `{"$same": "path of the first"}`. What JSON has no form for is an object with one `$` key: `$tuple`, `$set`, `$dict`
    (pairs), `$ref`, `$object` (the name to import), else `$text`.
    """
    first: dict[int, str] = {}  # id of a node or container -> where it was written

    def document(value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if (kind is int and value.bit_length() < 10000) or (kind is float and math.isfinite(value)):
            return value
        inner = children(value)
        if inner is None:
            return _leaf(value, lambda part: document(part, path))
        if id(value) in first:
            return {"$same": first[id(value)]}
        if not issubclass(kind, tuple):
            first[id(value)] = path
        parts = [(key, document(child, join_path(path, key))) for key, child in inner]
        if kind is Node:
            target = target_of(value)
            name = target if isinstance(target, str) else importable_name(target) or value.__sig__.label
            args = [part for key, part in parts if isinstance(key, int)]
            named = {key: part for key, part in parts if isinstance(key, str)}
            result = {"$partial" if value.__partial__ else "$call": name, "$args": args, "$with": named}
            return {key: part for key, part in result.items() if part}
        if isinstance(value, dict):
            is_plain = all(isinstance(key, str) and key[:1] != "$" for key in value)
            return dict(parts) if is_plain else {"$dict": [[document(key, path), part] for key, part in parts]}
        items = [part for _, part in parts]
        return items if isinstance(value, list) else {"$tuple": items}

    values = {name: document(cfg.__arguments__[name], join_path("", name)) for name in _in_order_of_use(cfg)}
    return json.dumps({"lazyengine_config": 2, "values": values}, indent=1, ensure_ascii=False) + "\n"


def _in_order_of_use(cfg: Config) -> list[str]:
    """Return the names of a config as the Python form has them, each behind those that it uses: a load keeps that."""
    values, order, seen = cfg.__arguments__, dict[str, None](), set[int]()
    names = {id(value): name for name, value in reversed(values.items()) if _has_identity(value)}
    for name, value in values.items():
        todo = [(value, False)]
        while todo:
            part, is_done = todo.pop()
            inner = None if is_done else children(part)
            if inner is None and id(part) in names:
                order.setdefault(names[id(part)])
            elif inner is not None and id(part) not in seen:
                seen.add(id(part))
                todo += [(part, True), *((child, False) for _, child in reversed(inner))]
        order.setdefault(name)
    return list(order)


def _leaf(value: Any, document: Any) -> dict[str, Any]:
    if type(value) is Ref:
        return {"$ref": [*value.paths, *([document(value.function)] if value.function is not None else [])]}
    if isinstance(value, set | frozenset):
        return {"$set": sorted(map(document, value), key=json.dumps)}
    if name := importable_name(value):
        return {"$object": name}
    text, call = brief(value, 1000), _call_of(value, importable_name(type(value)))
    if call is not None and (type(value) is functools.partial or dataclasses.is_dataclass(value)):
        named = {key: document(part) for key, part in call[2].items()}
        parts = {"$call": call[0], "$args": [*map(document, call[1])], "$with": named}
        return {key: part for key, part in parts.items() if part}
    is_array = hasattr(value, "tolist") and hasattr(value, "__len__")
    is_odd = hasattr(value, "__dict__") or "<" in text or " at 0x" in text
    if is_array or text[-3:] == "..." or (call is None and is_odd and not isinstance(value, enum.Enum)):
        text = f"{text.split(' at 0x')[0]} #{hashlib.sha256(_content(value).encode()).hexdigest()[:8]}"
    return {"$text": text}


def _content(value: Any, above: tuple[Any, ...] = ()) -> str:
    """Return text that differs where values do that the same line shows, and is the same in every process."""
    kind, tell = type(value), functools.partial(_content, above=(*above, value))
    if any(value is each for each in above):
        return "itself"
    if isinstance(value, set | frozenset):
        return f"{kind}{sorted(map(tell, value))}"
    if (inner := children(value)) is not None:
        return f"{kind}{[(tell(key), tell(part)) for key, part in inner]}"
    if kind in ATOMIC and kind is not FunctionType:
        return hex(value) if kind is int else repr(value)  # decimal digits are limited
    with contextlib.suppress(Exception):  # a class of somebody else
        if kind in COMPARED:
            return tell([getattr(value, name) for name in COMPARED[kind]])
        if kind is CodeType:
            return tell([value.co_code, value.co_names, value.co_varnames, value.co_consts])
        if hasattr(value, "tolist"):
            return f"{value.dtype}{value.tolist()}"
        return importable_name(value) or tell(value.__reduce_ex__(2)[:3])
    return f"{kind}"


# --------------------------------------------------------------------------------------------------- Python
def to_python(cfg: Config) -> str:
    """Return the config as the text of a Python file that loads as an equal config.

    Raises:
        SaveError: A value contains itself, or cannot even be pickled.
    """
    return _Writer(cfg).text()


def _layout(opening: str, items: list[str], closing: str, indent: int) -> str:
    """Return items between brackets: on one line where there is room for it."""
    line = f"{opening}{', '.join(items)}{closing}"
    if not items or ("\n" not in line and indent + len(line) <= _WIDTH):
        return line
    margin = " " * (indent + 4)
    lines = [opening, *(f"{margin}{item}," for item in items), " " * indent + closing.lstrip(",")]
    return "\n".join(lines)


class _Writer:
    """Turns the values of a config into statements; what is used twice gets a name."""

    def __init__(self, cfg: Config):
        values = cfg.__arguments__
        self.cfg = cfg
        self.saved = cfg.__twin__({})  # without what is left out
        self.taken = {"__roots__", *values, *keyword.kwlist}
        self.imports: dict[tuple[str, str], str] = {}
        self.roots: dict[str, str] = {}  # module -> the folder from which it is imported, of what is not installed
        self.statements: list[str] = []
        self.pickled: list[str] = []
        counts = Counter(id(child) for _, parent in walk(cfg) for _, child in children(parent) or ())
        self.named = {key for key, count in counts.items() if count > 1}
        self.active: dict[int, str] = {}  # id of what is being written -> its path
        self.variables: dict[int, str] = {}  # id of something shared -> the variable that holds it
        self.names = {id(v): name for name, v in reversed(values.items())}  # id -> the first top-level name that it has
        heads = {head_of(path) for _, x in walk(cfg) if type(x) is Ref for path in x.paths}
        in_nodes = [node.__arguments__ for _, node in walk(cfg) if type(node) is Node]
        self.used = {id(x) for _, x in walk([*in_nodes, *map(values.get, heads)])}
        for path, node in _steps_of_chains(cfg):
            self.named.add(id(node))
            self.expression(node, path, 0)
        for name, value in values.items():
            try:
                expression = self.expression(value, join_path("", name), 0)
            except SaveError:  # an open file, a lock
                if self.used & {id(x) for _, x in walk(value)}:
                    raise
                self.active.clear()
                del self.saved.__arguments__[name]
                continue
            if expression != name:  # else it is written already, before what uses it
                self.statements.append(f"{name} = {expression}")

    def text(self) -> str:
        """Return the whole file."""
        source = os.path.basename(self.cfg.__file__) if self.cfg.__file__ else "memory"
        lines = [f'"""Saved by lazyengine from {source}. A config like any other: change it, import it, run it."""', ""]
        if self.roots:
            items = [f"{module!r}: {root!r}" for module, root in sorted(self.roots.items())]
            lines += ["# where the modules of the project were", _layout("__roots__ = {", items, "}", 0), ""]
        imports: dict[str, list[str]] = {}
        for (module, name), alias in sorted(self.imports.items()):
            if module != "builtins" or alias != name:
                imports.setdefault(module, []).append(name if alias == name else f"{name} as {alias}")
        for module, names in imports.items():
            one = f"from {module} import {', '.join(names)}"
            lines.append(one if len(one) <= _WIDTH else _layout(f"from {module} import (", names, ")", 0))
        return "\n".join([*lines, "", *self.statements]) + "\n"

    def name_of(self, name: str) -> str:
        """Import `module:name` and return what it is called in the file."""
        module, _, qualname = name.partition(":")
        top, dot, rest = qualname.partition(".")
        module = self.written_module(module)
        if (module, top) not in self.imports:
            held = _look_up(name.partition(":")[0], top)
            hidden = not isinstance(held, type | FunctionType | BuiltinFunctionType)  # data would become a value
            hidden |= top in self.taken or (hasattr(builtins, top) and module != "builtins")
            self.imports[module, top] = self.unused(f"_{top}") if hidden else top
            self.taken.add(top)
        return self.imports[module, top] + dot + rest

    def written_module(self, module: str) -> str:
        """Return the name by which the file imports a module, and keep where it is, unless it is installed."""
        file = str(getattr(sys.modules.get(module), "__file__", None) or "")
        if not is_project_file(file):
            return module
        written = module.rpartition(".")[2] if is_by_path(module) else module
        root = file.removesuffix(f"{os.sep}__init__.py").removesuffix(".py")
        for _ in written.split("."):
            root = os.path.dirname(root)
        if self.roots.setdefault(written, root) == root:
            return written
        return module

    def expression(self, value: Any, path: str, indent: int) -> str:
        """Return the expression of a value; what is shared is a variable."""
        key = id(value)
        if key not in self.named or not _has_identity(value):
            return self.form(value, path, indent)
        if key in self.active:
            raise SaveError(f"{path} contains itself (it is {self.active[key]}) and cannot be saved.")
        if key not in self.variables:
            self.active[key] = path
            form = self.form(value, path, 0)
            del self.active[key]
            name = self.variables[key] = self.names.get(key) or self.new_name(value)
            self.statements.append(f"{name} = {form}")
        return self.variables[key]

    def new_name(self, value: Any) -> str:
        target = target_of(value) if type(value) is Node else None
        label = re.split("[.:]", target if isinstance(target, str) else getattr(target, "__qualname__", "shared"))[-1]
        return self.unused(f"_{label.lower()}" if label.isidentifier() else "_shared")

    def unused(self, base: str) -> str:
        """Return a name that nothing else in the file has."""
        names = (base if number == 1 else f"{base}_{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self.taken)
        self.taken.add(name)
        return name

    def form(self, value: Any, path: str, indent: int) -> str:
        """Return the expression that makes a value; its first line begins at `indent`, or a little later."""
        kind = type(value)
        if value is None or kind in (bool, str, bytes):
            return repr(value)
        if kind is int:
            return repr(value) if value.bit_length() < 10000 else hex(value)  # decimal digits are limited
        if kind is float:
            return repr(value) if math.isfinite(value) else self.call("builtins:float", [repr(value)], path, indent)
        if kind is Node:
            return self.node(value, path, indent)
        if kind is list or kind is tuple:
            items = [self.expression(v, f"{path}[{i}]", indent + 4) for i, v in enumerate(value)]
            closing = "]" if kind is list else ",)" if len(items) == 1 else ")"
            return _layout("[" if kind is list else "(", items, closing, indent)
        if kind is dict:
            items = [
                f"{self.form(key, f'{path} key', 0)}: {self.expression(child, join_path(path, key), indent + 4)}"
                for key, child in value.items()
            ]
            return _layout("{", items, "}", indent)
        if kind is set and value:
            return _layout("{", sorted(self.form(item, f"{path} item", indent + 4) for item in value), "}", indent)
        if kind is Ref:
            if value.owner is not None and value.owner is not self.cfg:
                raise SaveError(
                    f"{path}: {value!r}, written at {describe_source(value.where)}, belongs to another config "
                    f"({value.owner.__file__ or 'of no file'}): write a ref or a value of this one."
                )
            return self.call("lazyengine.config:ref", [*value.paths, *filter(None, [value.function])], path, indent)
        return self.object(value, path, indent)

    def call(self, name: str, arguments: Iterable[Any], path: str, indent: int, /, **named: Any) -> str:
        items = [self.expression(argument, f"{path}[{i}]", indent + 4) for i, argument in enumerate(arguments)]
        items += self.keywords(named, path, indent)
        return _layout(f"{self.name_of(name)}(", items, ")", indent)

    def keywords(self, named: dict[str, Any], path: str, indent: int) -> list[str]:
        """Return the expressions of arguments by name; what Python cannot write as `name=` is in a dict."""
        items, odd = [], []
        for name, argument in named.items():
            expression = self.expression(argument, join_path(path, name), indent + 4)
            if _is_word(name):
                items.append(f"{name}={expression}")
            else:
                odd.append(f"{name!r}: {expression}")
        return [*items, _layout("**{", odd, "}", indent + 4)] if odd else items

    def node(self, node: Node, path: str, indent: int) -> str:
        target, sig = target_of(node), node.__sig__
        called = repr(target) if isinstance(target, str) else self.form(target, f"{path}._target_", indent)
        arguments = node.__arguments__.copy()
        extra = [key for key in arguments if isinstance(key, int)]
        first = sig.positional if extra else ()  # they come before the extra ones
        if missing := [name for name in first if name not in arguments]:
            raise SaveError(f"{path}: {missing[0]!r} must be set, because arguments by position follow it.")
        items = [self.expression(arguments.pop(key), join_path(path, key), indent + 4) for key in (*first, *extra)]
        items += self.keywords(arguments, path, indent)
        maker = self.name_of(f"lazyengine.config:{'LazyPartial' if node.__partial__ else 'LazyCall'}")
        return _layout(f"{maker}({called})(", items, ")", indent)

    def object(self, value: Any, path: str, indent: int) -> str:
        """Return the expression of an object: its name, the call that makes it, else a pickle."""
        kind: Any = type(value)
        if name := importable_name(value):
            return self.name_of(name)
        made_by = importable_name(kind)
        if isinstance(value, enum.Enum) and made_by:
            is_member = value.name in kind.__members__  # and not several flags at once
            name = self.name_of(made_by)
            named = f".{value.name}" if _is_word(value.name) else f"[{value.name!r}]"
            return name + named if is_member else f"{name}({value.value!r})"
        if (call := _call_of(value, made_by)) is not None:
            return self.call(*call[:2], path, indent, **call[2])
        return self.pickle(value, path)

    def pickle(self, value: Any, path: str) -> str:
        import cloudpickle  # type: ignore[import-untyped]

        try:
            if id(value) not in self.used and not callable(value):
                raise TypeError("nothing uses it")
            data = cloudpickle.dumps(value, protocol=4)
            text = base64.b64encode(data).decode()
            if not is_equal(value, unpickle(text)):
                raise TypeError("what is pickled of it is not equal to it")
        except Exception as error:  # pickling calls methods of any class
            raise SaveError(
                f"{path}: {value!r:.80} cannot be saved: {error}. Let a node call what makes it instead."
            ) from error
        self.pickled.append(path)
        return f"{self.name_of('lazyengine.config.saving:unpickle')}({text!r})"


def unpickle(text: str) -> Any:
    """Return what a saved config holds as the base64 text of a pickle."""
    return _Unpickler(io.BytesIO(base64.b64decode(text))).load()


class _Unpickler(pickle.Unpickler):
    """Leaves a class that this process has as it is: cloudpickle would exchange its methods for copies in it."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name != "_class_setstate":
            return found
        return lambda cls, state: None if state[0].keys() <= vars(cls).keys() else found(cls, state)


def _is_word(name: str | None) -> bool:
    """Return whether Python reads `name` as one: in a call, after a dot."""
    return name is not None and name.isidentifier() and not keyword.iskeyword(name)


def _has_identity(value: Any) -> bool:
    """Return whether two uses of one object differ from two equal ones, so that it must be written once."""
    kind = type(value)
    if kind in _WITH_IDENTITY or kind in ATOMIC or value is REQUIRED:
        return kind in _WITH_IDENTITY
    is_value = isinstance(value, tuple | frozenset | complex | enum.Enum | pathlib.PurePath | Ref)
    return not is_value and importable_name(value) is None


def _steps_of_chains(cfg: Config) -> list[tuple[str, Node]]:
    """Return every 15th node of long chains, innermost first: they get names, as Python nests 200 brackets at most."""
    heights: dict[int, int] = {}

    def height(value: Any) -> int:
        if id(value) not in heights:
            heights[id(value)] = 0  # of something that contains itself, which is refused later
            heights[id(value)] = 1 + max([height(child) for _, child in children(value) or ()], default=0)
        return heights[id(value)]

    found = [(height(value), path, value) for path, value in walk(cfg) if type(value) is Node]
    return [(path, node) for level, path, node in sorted(found, key=lambda each: each[0]) if level % 15 == 0]


def _call_of(value: Any, made_by: str | None) -> tuple[str, Iterable[Any], dict[str, Any]] | None:
    """Return function, positional and named arguments of the call that makes a value; None where no call is known."""
    kind: Any = type(value)
    if kind is complex:
        return "builtins:complex", [value.real, value.imag], {}
    if kind is OrderedDict:
        return "collections:OrderedDict", [list(value.items())] if value else [], {}
    if kind in (set, frozenset):
        return f"builtins:{kind.__name__}", [set(value)] if value else [], {}
    if issubclass(kind, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
        return f"pathlib:{'Path' if issubclass(kind, pathlib.Path) else kind.__name__}", [str(value)], {}
    if kind is functools.partial:
        return "functools:partial", [value.func, *value.args], value.keywords
    if kind is re.Pattern:
        return "re:compile", [value.pattern, value.flags & ~re.UNICODE.value], {}
    if kind.__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufcSU":
        if made_by and made_by != "numpy:ndarray":  # a scalar
            return made_by, [value.item()], {}
        name, content = ("numpy:array", value.tolist()) if value.size else ("numpy:ndarray", value.shape)
        return name, [content], {"dtype": value.dtype.str}
    if isinstance(value, tuple) and hasattr(value, "_fields") and made_by:
        return made_by, value, {}
    if dataclasses.is_dataclass(kind) and made_by:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
        with contextlib.suppress(Exception):  # it may take others, or compute with them
            return (made_by, [], fields) if is_equal(kind(**fields), value) else None
    reduced = None
    with contextlib.suppress(Exception):  # what cannot be pickled is reported by the attempt
        reduced = value.__reduce_ex__(2)
    if not isinstance(reduced, tuple) or len(reduced) < 2 or any(part is not None for part in reduced[2:]):
        return None
    name = importable_name(reduced[0])
    is_simple = all(v is None or isinstance(v, bool | int | float | str | tuple) for v in reduced[1])
    return (name, reduced[1], {}) if name and is_simple and not name.startswith("copyreg:") else None


# ---------------------------------------------------------------------------------------------------- names
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
    if isinstance(value, MethodType) and isinstance(value.__self__, type):  # Model.from_pretrained
        owner = importable_name(value.__self__)
        if owner and getattr(value.__self__, value.__name__, None) == value:
            return f"{owner}.{value.__name__}"
    return None


def _own_name(value: Any) -> tuple[str | None, str | None]:
    """Return what module and name a value says that it has."""
    name = None
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        name = value.__qualname__
    elif not isinstance(value, MethodType | ModuleType):
        with contextlib.suppress(Exception):  # whatever cannot be pickled has no name either
            name = value.__reduce_ex__(2)  # constants such as torch.float32 name themselves
    if not isinstance(name, str):
        return None, None
    owner = getattr(value, "__self__", None)  # of a function written in C
    if getattr(value, "__module__", None) is None and owner is not None:
        value = owner if isinstance(owner, ModuleType | type) else type(owner)
    return getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None), name


def _look_up(module: str, name: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
