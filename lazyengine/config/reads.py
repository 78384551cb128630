"""What the code of a file does with its top-level names: binds them, takes them from other files, reads them.

Found from the compiled code (which knows what is global) and the syntax tree (which knows what surrounds it); nothing
is traced. One rule follows from it: what Python has read does not follow a later change of the name.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from opcode import opmap as _OPERATIONS
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .graph import INTERPOLATION, children, display_path, join_path, reachable, span_of, walk
from .node import Node

if TYPE_CHECKING:
    from .loader import Load

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_PASSED_ON = ast.keyword | ast.List | ast.Tuple | ast.Set | ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.Return
_LOADS = {_OPERATIONS.get(name) for name in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")}
MODULE, COMPREHENSION, CLASS, FUNCTION = range(4)
Place = tuple[int, int]  # line and column
Span = tuple[int, int, int, int]  # line and column of the beginning, of the end


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
    is_part: bool
    """Whether it takes something out of the value; else it passes the whole value on."""
    arguments: list[tuple[Span, Any]]
    """The calls around it, innermost first, each with the argument that it is part of."""


class Text:
    """What one file does with its top-level names.

    Attributes:
        stores: Name to the place after each statement that binds it, other than by an import.
        taken: `(module as written, name, bound name)` of everything that a `from ... import` takes.
        aliases: `(bound name, name, attributes)` of assignments such as `lr = base.lr`.
        reads: Every read of a global name.
        interpolations: Line and text of every `"${...}"`.
    """

    def __init__(self, source: bytes, code: CodeType):
        self.stores: dict[str, list[Place]] = {}
        self.taken: list[tuple[str, str, str]] = []
        self.aliases: list[tuple[str, str, tuple[str, ...]]] = []
        self.reads: list[Read] = []
        self.interpolations: list[tuple[int, str]] = []
        self._parents: dict[ast.AST, Any] = {}
        loads = set(_global_loads(code))
        for node, parent, level in scoped_nodes(ast.parse(source)):
            self._parents[node] = parent
            if isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                self.taken += [(module, alias.name, alias.asname or alias.name) for alias in node.names]
            elif isinstance(node, ast.Assign) and level == MODULE:
                self._add_aliases(node)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(INTERPOLATION, node.value)
            ):
                self.interpolations.append((node.lineno, node.value))
            elif level == MODULE and isinstance(node, _NAMED) and node.name:
                self.stores.setdefault(node.name, []).append(_end(node))
            elif (
                isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Store)
                and level <= isinstance(parent, ast.NamedExpr) * COMPREHENSION
            ):
                around: Any = node
                while isinstance(around, ast.Name | ast.Tuple | ast.List | ast.Starred):
                    around = self._parents[around]
                is_whole = isinstance(around, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr)
                self.stores.setdefault(node.id, []).append(_end(around if is_whole else node))
            elif isinstance(node, ast.Name) and {(node.id, node.lineno, c) for c in (node.col_offset, None)} & loads:
                self._add_read(node, level == FUNCTION)

    def _add_aliases(self, node: ast.Assign) -> None:
        for target in node.targets:
            both = (target, node.value)
            parts = [x.elts if isinstance(x, ast.Tuple | ast.List) else [x] for x in both]
            for bound, value in zip(*parts) if len(parts[0]) == len(parts[1]) else ():
                attributes: list[str] = []
                while isinstance(value, ast.Attribute):
                    attributes.insert(0, value.attr)
                    value = value.value
                if isinstance(bound, ast.Name) and isinstance(value, ast.Name):
                    self.aliases.append((bound.id, value.id, tuple(attributes)))

    def _add_read(self, name: ast.Name, is_late: bool) -> None:
        node, parent = name, self._parents[name]
        attributes: list[str] = []
        while isinstance(parent, ast.Attribute):
            attributes.append(parent.attr)
            node, parent = parent, self._parents[parent]
        if isinstance(parent, ast.Dict):
            is_part = None in parent.keys
        elif isinstance(parent, ast.Call):
            is_part = node is parent.func
        else:
            is_part = not isinstance(parent, _PASSED_ON) or getattr(parent, "arg", "") is None
        target, around, parts = node, parent, list[Any](attributes)
        while isinstance(around, ast.Subscript | ast.Attribute) and around.value is target:
            parts.append(around.attr if isinstance(around, ast.Attribute) else getattr(around.slice, "value", None))
            target, around = around, self._parents[around]
        if isinstance(getattr(target, "ctx", None), ast.Load) and not self._makes_nothing(name, target, around):
            place, arguments = (name.lineno, name.col_offset), self._arguments(node)
            self.reads.append(Read(name.id, tuple(attributes), tuple(parts), place, is_late, is_part, arguments))

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


def _end(node: Any) -> Place:
    return node.end_lineno, node.end_col_offset


def scoped_nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, Any, int]]:
    """Yield what a file runs when it is imported or called: node, its parent and level; not a script's main part."""
    stack: list[tuple[ast.AST, Any, int]] = [(tree, None, MODULE)]
    while stack:
        node, parent, level = stack.pop()
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            continue
        yield node, parent, level
        inner = COMPREHENSION if isinstance(node, _COMPREHENSIONS) else CLASS if isinstance(node, ast.ClassDef) else 0
        level = max(level, FUNCTION if isinstance(node, _FUNCTIONS) else inner)
        stack += [(child, node, level) for child in reversed(list(ast.iter_child_nodes(node)))]


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


@functools.lru_cache(maxsize=64)
def compiled(source: bytes, file: str) -> CodeType:
    """Compile a file; the same text is not compiled twice, as Python itself does by `.pyc` files."""
    return compile(source, file, "exec", dont_inherit=True)


@functools.lru_cache(maxsize=256)
def text_of(source: bytes, file: str) -> Text:
    """Return what a file does with its names; the same text is analyzed once."""
    return Text(source, compiled(source, file))


# ------------------------------------------------------------------------------------------------ over all files
def names_for(load: Load, file: str, name: str) -> set[tuple[str, str]]:
    """Return `(file, name)` of everything that names the same value as a name of a file: imported, or an alias."""
    edges: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for here, content in load.namespaces.items():
        text = load.text(here)
        pairs = [((here, bound), (str(module.__file__), n)) for module, n, bound in load.taken_names(here)]
        pairs += [((here, bound), _owner(load, here, (n, *more))) for bound, n, more in text.aliases]
        for one, other in pairs:
            if content.get(one[1], load) is load.namespaces.get(other[0], {}).get(other[1]):
                edges.setdefault(one, []).append(other)
                edges.setdefault(other, []).append(one)
    return reachable((file, name), lambda each: edges.get(each, ()))


def _owner(load: Load, file: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Return `(file, name)` of what `names[0].names[1]...` of a file leads to, through modules."""
    for i, name in enumerate(names[:-1]):
        module = load.namespaces.get(file, {}).get(name)
        if not isinstance(module, ModuleType):
            return file, names[0] if i == 0 else name
        file = getattr(module, "__file__", None) or ""
    return file, names[-1]


def reads_of(load: Load, file: str, name: str) -> list[tuple[str, Read]]:
    """Return the reads of the value that a top-level name has, each with its file; of former values of it none."""
    names = names_for(load, file, name)
    found = []
    for here, content in load.namespaces.items():
        text = load.text(here)
        for read in text.reads:
            chain = (read.name, *read.attributes)
            last = next((i for i in range(len(chain), 0, -1) if _owner(load, here, chain[:i]) in names), None)
            if last is None:
                continue
            is_own = last == 1 and not isinstance(content.get(read.name), ModuleType)
            stores = text.stores.get(read.name, []) if is_own and not read.is_late else []
            is_alias = any((read.name, read.attributes) == alias[1:] for alias in text.aliases) and not read.arguments
            if read.place >= max(stores, default=(0, 0)) and not (is_alias and not read.is_late and not read.is_part):
                found.append((here, read._replace(is_part=read.is_part or last < len(chain))))
    return found


def reads_of_part(load: Load, holder: Any, key: Any) -> list[tuple[str, Read]]:
    """Return the reads that took an argument or an item out of a node or container, each with its file."""
    found = []
    for here, content in load.namespaces.items():
        for read in load.text(here).reads:
            value, parts = content.get(read.name), list(read.parts)
            while parts and value is not holder:
                inner = vars(value) if isinstance(value, ModuleType) else dict(children(value) or ())
                value = inner.get(parts.pop(0))
            is_read = parts[0] == key if parts else read.is_part and type(holder) is not Node
            if value is holder and is_read:
                found.append((here, read))
    return found


def _nodes_by_span(root: Any) -> dict[tuple[str, Span], list[tuple[str, Node]]]:
    nodes: dict[tuple[str, Span], list[tuple[str, Node]]] = {}
    for path, value in walk(root):
        if type(value) is Node and (span := span_of(value.__where__)) is not None:
            nodes.setdefault(span, []).append((path, value))
    return nodes


def followers(load: Load, root: Any, reads: list[tuple[str, Read]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return `(path, place)` of the arguments below `root` that were made from reads, and the places that made no node.

    Left out are arguments that were set again since, and nodes that are not below `root`.
    """
    if not reads:
        return [], []
    nodes, all_nodes = (_nodes_by_span(each) for each in (root, [load.namespaces[file] for file, _ in reads]))
    paths, others = [], []
    for file, read in reads:
        place = f"{display_path(file)}:{read.place[0]}"
        made = [pair for pair in read.arguments if (file, pair[0]) in nodes or (file, pair[0]) in all_nodes]
        span, key = made[0] if made else (None, None)
        if span is None:
            others.append(place)
        for path, node in nodes.get((file, span), ()) if span else ():
            named = key if isinstance(key, str | list) else (*node.__sig__.positional, *range(99))[key or 0]
            names = [name for name in node.__arguments__ if name not in key] if isinstance(key, list) else [named]
            is_set = {name: (node.__history__ or {}).get(name) for name in node.__arguments__}
            paths += [(join_path(path, name), place) for name in names if not is_set.get(name, name)]
    return paths, others
