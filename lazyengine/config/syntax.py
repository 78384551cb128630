"""What a config's text says: whether a file is a config at all, where its names are bound and read."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator

_MAKERS = ("LazyCall", "LazyPartial")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}", os.path.dirname(os.__file__) + os.sep)


def is_config_file(file: str) -> bool:
    """Judge whether a file that a config imports is a config too: run afresh for every load, its nodes shared with it.

    It is if it makes nodes at module level, or defines no class or function. An `__init__.py` never is, and an
    installed file only if it makes nodes.
    """
    if not file.endswith(".py") or os.path.basename(file) == "__init__.py":
        return False
    try:
        stat = os.stat(file)
    except OSError:
        return False
    return _judge(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _judge(file: str, mtime_ns: int, size: int) -> bool:
    is_installed = any(part in file for part in _INSTALLED)
    try:
        with open(file, "rb") as stream:
            source = stream.read()
        if is_installed and not any(maker.encode() in source for maker in _MAKERS):
            return False
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError):
        return not is_installed  # running it as a config reports the error best
    makes_nodes = _makes_nodes(tree)
    defines = any(isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for s in _statements(tree))
    return makes_nodes or not (defines or is_installed)


@functools.lru_cache(maxsize=64)
def parse(source: bytes) -> ast.Module:
    """Parse a source text that is known to compile."""
    return ast.parse(source)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run at module level, also inside of if, for, with and try, in order."""
    stack: list[ast.AST] = list(reversed(tree.body))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            continue  # a script's main part does not run when it is imported
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _expressions(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield all expressions that are evaluated at module level; not those inside of functions, classes, lambdas."""
    stack: list[ast.AST] = list(_statements(tree))
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in seen or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        seen.add(id(node))
        if isinstance(node, ast.expr):
            yield node
        stack.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt))


def _makes_nodes(tree: ast.Module) -> bool:
    makers = {bound for name, bound in from_imports(tree) if name in _MAKERS}
    return any(
        isinstance(e, ast.Call)
        and ((isinstance(e.func, ast.Name) and e.func.id in makers) or getattr(e.func, "attr", None) in _MAKERS)
        for e in _expressions(tree)
    )


def from_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the `(name, bound name)` of everything that a `from ... import` at module level takes."""
    for statement in _statements(tree):
        if isinstance(statement, ast.ImportFrom):
            yield from ((alias.name, alias.asname or alias.name) for alias in statement.names)


def lines_with(tree: ast.Module, name: str, is_read: bool) -> list[int]:
    """Return the lines that bind a name at module level other than by an import, or those that read it there."""
    context = ast.Load if is_read else ast.Store
    found = (e for e in _expressions(tree) if isinstance(e, ast.Name) and e.id == name and isinstance(e.ctx, context))
    return sorted({e.lineno for e in found})
