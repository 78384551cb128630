"""What the code of a file does with its top-level names: binds them, takes them from other files, reads them.

Found from the compiled code (which knows what is global) and the syntax tree (which knows what surrounds it); nothing
is traced. One rule follows from it: what Python has read does not follow a later change of the name.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import itertools
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, MutableSequence, MutableSet
from opcode import opmap as _OPERATIONS
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..text import listed
from .graph import ATOMIC, Holder, children, display_path, join_path, reachable, span_of, walk
from .node import Node

if TYPE_CHECKING:
    from .loader import Load

_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_PASSED_ON = ast.keyword | ast.List | ast.Tuple | ast.Set | ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.Return
MODULE, COMPREHENSION, CLASS, FUNCTION = range(4)
_LEVELS: dict[Any, int] = {
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), COMPREHENSION),
    ast.ClassDef: CLASS,
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda), FUNCTION),
}
_LEAVES = {str, int, bool, bytes, type(None), ast.Constant, ast.Load, ast.Store, ast.Del}
_LOADS = {_OPERATIONS.get(name) for name in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")}
_SIMPLE = (int, float, str, bool, type(None))
_WHOLE, _ANY = object(), object()  # stand for a part: of what is passed on as it is, of what anything is taken from
Place = tuple[int, int]  # line and column
Span = tuple[int, int, int, int]  # line and column of the beginning, of the end
Made = dict[Any, list[tuple[str, Node]]]  # file and span of a call to the paths and nodes that it made


class Read(NamedTuple):
    """One place where a file reads a name."""

    name: str
    attributes: tuple[str, ...]
    """What follows the name: `base.values.lr` is `base` with these two."""
    parts: tuple[Any, ...]
    """Names and constant keys of all that is taken out of it: `hooks["a"].width` is `hooks` with these two."""
    place: Place
    is_late: bool
    """Whether it stands in a function, which runs after the names are bound."""
    is_part: bool | None
    """Whether it takes something out of the value; else it passes the whole value on. None: to a call, which takes
    something out of it unless it makes a node."""
    arguments: list[tuple[Span, Any]]
    """The calls around it, innermost first, each with the argument that it is part of."""
    bound: list[str]
    """The names that an assignment at module level gives to just this value, such as `lr = base.lr`."""


class Followers(NamedTuple):
    """What was made from reads of a value and does not follow when that changes."""

    paths: list[tuple[str, str]]
    """Arguments of nodes: path and place."""
    others: list[str]
    """The places of reads that made no node."""

    def __str__(self) -> str:
        return listed(dict.fromkeys([*(f"{path} ({place})" for path, place in self.paths), *self.others]), 5)


class Text:
    """What one file does with its top-level names. Computed for what is asked only: most loads ask for its imports.

    Attributes:
        code: The compiled file.
        stores: Name to the place after each statement that binds it, other than by an import.
        names: Name to the places where the file may read it, as a global name or another one, each with its level.
    """

    def __init__(self, source: bytes, code: CodeType):
        self._source, self.code = source, code
        self._parents: dict[ast.AST, Any] = {}
        self._reads: dict[ast.Name, Read | None] = {}
        self.stores: dict[str, list[Place]]
        self.names: dict[str, list[tuple[ast.Name, int]]]

    def __getattr__(self, name: str) -> Any:
        if name not in ("stores", "names"):
            raise AttributeError(name)
        self._walk()
        return getattr(self, name)

    @functools.cached_property
    def taken(self) -> list[tuple[str, str, str]]:
        """`(module as written, name, bound name)` of everything that a `from ... import` takes."""
        lines = importlib.util.decode_source(self._source).split("\n")
        spans = [(1, len(lines))] if b"__name__" in self._source else sorted(set(_import_lines(self.code)))
        try:  # just the lines of these statements
            tree = ast.parse("\n".join("\n".join(lines[begin - 1 : end]).lstrip() for begin, end in spans))
        except SyntaxError:  # in a line with something else
            tree = parsed(self._source)
        return [
            ("." * node.level + (node.module or ""), alias.name, alias.asname or alias.name)
            for node, _, _ in scoped_nodes(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]

    def _walk(self) -> None:
        stores: dict[str, list[Place]] = {}
        names: dict[str, list[tuple[ast.Name, int]]] = {}
        for node, parent, level in scoped_nodes(parsed(self._source)):
            self._parents[node] = parent
            if type(node) is ast.Name:
                if type(node.ctx) is ast.Load:
                    names.setdefault(node.id, []).append((node, level))
                elif type(node.ctx) is ast.Store and level <= isinstance(parent, ast.NamedExpr) * COMPREHENSION:
                    around: Any = node
                    while isinstance(around, ast.Name | ast.Tuple | ast.List | ast.Starred):
                        around = self._parents[around]
                    is_whole = isinstance(around, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr)
                    stores.setdefault(node.id, []).append(_end(around if is_whole else node))
            elif level == MODULE and isinstance(node, _NAMED) and node.name:
                stores.setdefault(node.name, []).append(_end(node))
        self.stores, self.names = stores, names

    @functools.cached_property
    def _global(self) -> set[tuple[str, int | None, int | None]]:
        return set(_global_loads(self.code))

    def reads_of(self, name: str) -> list[Read]:
        """Return the reads of a global name."""
        return list(filter(None, itertools.starmap(self._read, self.names.get(name, ()))))

    @functools.cached_property
    def paths(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Each name with no parts, and with the parts that reads take out of it."""
        paths = [(read.name, read.parts) for read in self._reads_below(ast.Subscript | ast.Attribute)]
        return list(dict.fromkeys([*((name, ()) for name in self.names), *paths]))

    @functools.cached_property
    def aliases(self) -> list[Read]:
        """The reads that only give the value another name."""
        return [read for read in self._reads_below(ast.Attribute | ast.Assign | ast.Tuple) if read.bound]

    def _reads_below(self, kinds: Any) -> list[Read]:
        names = itertools.chain.from_iterable(self.names.values())
        reads = (self._read(node, level) for node, level in names if isinstance(self._parents[node], kinds))
        return sorted(filter(None, reads), key=lambda read: read.place)

    def _read(self, name: ast.Name, level: int) -> Read | None:
        """Return what a place where a name stands reads; None for a local name, and for what makes nothing of it."""
        if name not in self._reads:
            places = {(name.id, name.lineno, column) for column in (name.col_offset, None)}
            self._reads[name] = self._made_read(name, level) if places & self._global else None
        return self._reads[name]

    def _made_read(self, name: ast.Name, level: int) -> Read | None:
        node, parent = name, self._parents[name]
        attributes: list[str] = []
        while isinstance(parent, ast.Attribute):
            attributes.append(parent.attr)
            node, parent = parent, self._parents[parent]
        if isinstance(parent, ast.Dict):
            is_part = None in parent.keys
        elif isinstance(parent, ast.Call):
            is_part = node is parent.func or (False if isinstance(self._parents[parent], ast.Expr) else None)
        else:
            is_part = not isinstance(parent, _PASSED_ON) or getattr(parent, "arg", "") is None
        target, around, parts = name, self._parents[name], list[Any]()
        while isinstance(around, ast.Subscript | ast.Attribute) and around.value is target:
            call = self._parents[around]
            key: Any = around.attr if isinstance(around, ast.Attribute) else _constant(around.slice)
            given = call.args[0] if isinstance(call, ast.Call) and call.args else None
            if key == "get" and isinstance(given, ast.Constant):
                key, around = given.value, call
            parts.append(key)
            target, around = around, self._parents[around]
        if parts[-1:] == ["values"] and self._is_spread(around):
            parts.pop()  # the items of the dict are passed on as they are, only the dict is not
        if not isinstance(getattr(target, "ctx", name.ctx), ast.Load) or self._makes_nothing(name, target, around):
            return None
        place, arguments = (name.lineno, name.col_offset), self._arguments(node)
        bound = self._bound(node) if level == MODULE else []
        return Read(name.id, tuple(attributes), tuple(parts), place, level == FUNCTION, is_part, arguments, bound)

    def _is_spread(self, call: Any) -> bool:
        """Return whether all that a call returns becomes items of a list or tuple that is passed on as it is."""
        around = self._parents[call]
        if isinstance(around, ast.Starred):
            around = self._parents[around]
            is_list = isinstance(around, ast.List | ast.Tuple)
        else:
            is_list = isinstance(around, ast.Call) and getattr(around.func, "id", "") in ("list", "tuple")
        return is_list and isinstance(call, ast.Call) and isinstance(self._parents[around], _PASSED_ON)

    def _bound(self, node: Any) -> list[str]:
        """Return the names to which an assignment binds a value as it is, alone or in a tuple."""
        around = self._parents[node]
        index = around.elts.index(node) if isinstance(around, ast.Tuple) else None
        statement = around if index is None else self._parents[around]
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if index is not None:
            targets = [t.elts[index] for t in targets if isinstance(t, ast.Tuple) and len(t.elts) == len(around.elts)]
        return [target.id for target in targets if isinstance(target, ast.Name)]

    def _makes_nothing(self, name: ast.Name, target: Any, around: Any) -> bool:
        """Return whether a read makes nothing: the value is checked or printed, changed in place or set anew."""
        statement = around
        while not isinstance(statement, ast.stmt | None):
            statement = self._parents[statement]
        call = getattr(statement, "value", None) if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and (target is call.func or getattr(call.func, "id", "") == "print"):
            return True  # `hooks.append(x)` on a line of its own
        after = statement.targets if isinstance(statement, ast.Assign) and target is not name else []
        return isinstance(statement, ast.Assert) or any(ast.unparse(t) == ast.unparse(target) for t in after)

    def _arguments(self, node: Any) -> list[tuple[Span, Any]]:
        found: list[tuple[Span, Any]] = []
        while (parent := self._parents[node]) is not None:
            if isinstance(parent, ast.keyword):
                node, parent = parent, self._parents[parent]
            if isinstance(parent, ast.Call) and node is not parent.func:
                key: Any = node.arg if isinstance(node, ast.keyword) else parent.args.index(node)
                if key is None or isinstance(node, ast.Starred):  # all arguments but those that are written
                    key = [keyword.arg for keyword in parent.keywords if keyword.arg]
                found.append(((parent.lineno, parent.col_offset, *_end(parent)), key))
            node = parent
        return found


def _constant(node: Any) -> Any:
    if isinstance(node, ast.UnaryOp) and type(value := _constant(node.operand)) is int:
        return -value
    return node.value if isinstance(node, ast.Constant) else None


def _end(node: Any) -> Place:
    return node.end_lineno, node.end_col_offset


def scoped_nodes(tree: ast.AST) -> Iterator[tuple[Any, Any, int]]:
    """Yield what a file runs when it is imported or called: node, its parent and level; not a script's main part."""
    stack: list[tuple[Any, Any, int]] = [(tree, None, MODULE)]
    while stack:
        item = node, _, level = stack.pop()
        kind = type(node)
        if kind is ast.If and "__name__" in ast.dump(node.test):
            continue
        yield item
        if kind is ast.Name:
            continue
        level = max(level, _LEVELS.get(kind, MODULE))
        inner: list[Any] = []
        for field in kind._fields:
            child = getattr(node, field)
            inner += child if type(child) is list else (child,)
        inner.reverse()
        stack += [(child, node, level) for child in inner if type(child) not in _LEAVES]


def _import_lines(code: CodeType) -> Iterator[tuple[Any, Any]]:
    """Yield the first and last line of each import statement in compiled code."""
    operations = code.co_code[::2]
    last = operations.rfind(_OPERATIONS["IMPORT_NAME"])
    for operation, place in zip(operations[: last + 1], code.co_positions()):
        if operation == _OPERATIONS["IMPORT_NAME"]:
            yield place[:2]  # type: ignore[misc]
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _import_lines(const)


def _global_loads(code: CodeType, is_module: bool = True) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield `(name, line, column)` of everything that the compiler took for a read of a global name."""
    own: set[str] = set()  # names that a class body has bound so far
    extended = 0
    for (operation, argument), place in zip(zip(code.co_code[::2], code.co_code[1::2]), code.co_positions()):
        argument |= extended
        extended = argument << 8 if operation == _OPERATIONS["EXTENDED_ARG"] else 0
        if operation == _OPERATIONS["STORE_NAME"] and not is_module:
            own.add(code.co_names[argument])
        elif operation in _LOADS:
            name = code.co_names[argument >> 1 if operation == _OPERATIONS["LOAD_GLOBAL"] else argument]
            if name not in own:
                yield name, place[0], place[2]
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _global_loads(const, False)


@functools.lru_cache(maxsize=16)
def parsed(source: bytes) -> ast.Module:
    """Parse a file; the same text is not parsed twice within a load."""
    return ast.parse(source)


@functools.lru_cache(maxsize=256)
def text_of(source: bytes, file: str) -> Text:
    """Return what a file does with its names; the same text is compiled and analyzed once."""
    return Text(source, compile(source, file, "exec", dont_inherit=True))


# ------------------------------------------------------------------------------------------------ over all files
def names_for(load: Load, file: str, name: str) -> set[tuple[str, str]]:
    """Return `(file, name)` of everything that names the same value as a name of a file: imported, or an alias."""
    edges: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for here, content in load.namespaces.items():
        pairs = [(bound, (str(module.__file__), n)) for module, n, bound in load.taken_names(here)]
        pairs += [(bound, _owner(load, here, read)) for read in load.text(here).aliases for bound in read.bound]
        for bound, other in pairs:
            if content.get(bound, load) is load.namespaces.get(other[0], {}).get(other[1]):
                edges.setdefault((here, bound), []).append(other)
                edges.setdefault(other, []).append((here, bound))
    return reachable((file, name), lambda each: edges.get(each, ()))


def _owner(load: Load, file: str, read: Read) -> tuple[str, str]:
    """Return `(file, name)` of what is read, through modules: `base.lr` is the `lr` of the file of `base`."""
    names = [read.name, *read.attributes]
    while len(names) > 1 and isinstance(module := load.namespaces.get(file, {}).get(names[0]), ModuleType):
        file = getattr(module, "__file__", None) or ""
        names.pop(0)
    return file, names[0]


def reads_of(load: Load, file: str, name: str) -> list[tuple[str, Read]]:
    """Return the reads of the value that a top-level name has, each with its file; of former values of it none."""
    names = names_for(load, file, name)
    found = []
    for here, content in load.namespaces.items():
        text = load.text(here)
        own = (n for n in text.names if (here, n) in names or isinstance(content.get(n), ModuleType))
        for read in itertools.chain.from_iterable(map(text.reads_of, own)):
            if read.bound or _owner(load, here, read) not in names:
                continue
            in_order = not (read.is_late or isinstance(content.get(read.name), ModuleType))
            if not in_order or read.place >= max(text.stores.get(read.name, ()), default=(0, 0)):
                found.append((here, read))
    return found


class PartReads:
    """The reads that took an argument or an item out of something, for many questions.

    What they lead to is followed once, as it is now: who changes something on the way makes a new one.
    """

    def __init__(self, load: Load):
        self._load = load
        self._holders: list[Any] = []  # keeps what the ids belong to alive
        self._taken: dict[tuple[int, Any], list[tuple[str, str, tuple[Any, ...]]]] = {}
        for here, content in load.namespaces.items():
            for name, parts in load.text(here).paths:
                if parts or type(content.get(name)) not in ATOMIC:  # atomic values hold no part
                    self._follow(content.get(name), (here, name, parts))

    def _follow(self, value: Any, taken: tuple[str, str, tuple[Any, ...]]) -> None:
        for part in (*taken[2], _WHOLE):
            if type(value) in _SIMPLE or (part is _WHOLE and type(value) is Node):
                return
            self._holders.append(value)
            is_any = part is not _WHOLE and _is_any(value, part)
            for key in [(id(value), part), *((id(x), _ANY) for _, x in (walk(value) if is_any else ()))]:
                self._taken.setdefault(key, []).append(taken)
            if is_any:
                return
            value = _part(value, part)

    def of(self, holder: Any, key: Any) -> list[tuple[str, Read]]:
        """Return the reads that took this argument or item out of a node or container, each with its file."""
        is_list = isinstance(key, int) and not isinstance(holder, Holder | dict)
        found: dict[Any, tuple[str, Read]] = {}
        for k in [_WHOLE, _ANY, key, *([key - len(content_of(holder))] if is_list else ())]:
            for here, name, parts in self._taken.get((id(holder), k), ()):
                for read in self._load.text(here).reads_of(name):
                    order = list(self._load.namespaces).index(here), bool(parts), read.place
                    if read.parts == parts:
                        found[order] = here, read if k is _WHOLE else read._replace(is_part=True)
        return [found[order] for order in sorted(found)]


def _part(value: Any, part: Any) -> Any:
    content = vars(value) if isinstance(value, (ModuleType, type, FunctionType)) else content_of(value)
    return content.get(part, getattr(type(value), part, None) if type(part) is str else None)


def content_of(x: Any) -> dict[Any, Any]:
    """Return what an object holds by key: arguments, items, attributes; of a small array or tensor each row as text."""
    if hasattr(type(x), "tolist") and getattr(x, "nbytes", 0) <= 100_000:
        with contextlib.suppress(Exception):  # a tensor without values
            rows = x.tolist()
            return {i: sys.intern(repr(row)) for i, row in enumerate(rows if isinstance(rows, list) else [rows])}
    if isinstance(x, MutableSet):
        return dict.fromkeys(x)
    if isinstance(x, UserDict):
        return {**vars(x), **x.data}
    inner = children(x) or (enumerate(x) if isinstance(x, MutableSequence) else getattr(x, "__dict__", ()))
    return {"_target_": x.__sig__, **dict(inner)} if type(x) is Node else dict(inner)


def _is_any(value: Any, part: Any) -> bool:
    """Return whether a part may be anything: by a key that is computed, or of a method such as `values`."""
    is_computed = type(part) is str and hasattr(getattr(type(value), part, None), "__get__")
    return part is None or (is_computed and part not in ("shape", "dtype") and part not in content_of(value))


def made_nodes(load: Load, root: Any) -> Made:
    """Return the nodes that each call has made, with their paths: those below `root` begin with `[0]`."""
    made: Made = {}
    for path, value in walk([root, *load.namespaces.values()]):
        if type(value) is Node and (span := span_of(value.__where__)) is not None:
            made.setdefault(span, []).append((path, value))
    return made


def followers(
    made: Made, reads: list[tuple[str, Read]], only_parts: bool = False, is_new: Callable[[Any], bool] = lambda _: False
) -> Followers:
    """Return what was made from reads: of arguments those that are below the root and were not set again since.

    Args:
        made: The nodes that each call has made.
        reads: The reads, each with its file.
        only_parts: Whether those that pass the whole value on do not count, since they hold what is changed in place.
        is_new: Tells of the value of an argument that it follows all the same.
    """
    found = Followers([], [])
    for file, read in reads:
        place = f"{display_path(file)}:{read.place[0]}"
        span, key = next((((file, s), k) for s, k in read.arguments if (file, s) in made), (None, None))
        is_copied = read.is_part is None and (file, read.arguments[0][0]) not in made
        if only_parts and not (read.is_part or is_copied):
            continue
        if span is None:
            found.others.append(place)
        for path, node in made.get(span, ()):
            named = (*node.__sig__.positional, *range(99))[key] if isinstance(key, int) else key
            names = [n for n in node.__arguments__ if (n not in key if isinstance(key, list) else n == named)]
            inside, _, path = path.partition("]")
            for name in names if inside == "[0" else ():
                if name not in (node.__history__ or {}) and not is_new(node.__arguments__[name]):
                    found.paths.append((join_path(path.lstrip("."), name), place))
    return found
