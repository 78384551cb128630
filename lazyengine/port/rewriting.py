"""What both rewriters of code need: imports that are added, and notes above the statement that they are about."""

from __future__ import annotations

import itertools
from typing import Any

import libcst as cst
import libcst.matchers as m

from .expressions import import_lines

_IMPORT = m.SimpleStatementLine(body=[m.Import() | m.ImportFrom()])
_STATEMENTS = cst.SimpleStatementLine | cst.ClassDef | cst.FunctionDef | cst.If | cst.For | cst.With


class Rewriter(cst.CSTTransformer):
    """Changes a module's syntax tree; `need` and `todo` may be called by any of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self._imports: dict[str, dict[str, str]] = {}
        self._notes: list[str] = []

    def rewrite(self, text: str) -> str:
        """Return the text of a module as this rewriter leaves it; new imports are below its first ones."""
        tree = cst.parse_module(text).visit(self)
        first = itertools.takewhile(lambda node: is_docstring(node) or m.matches(node, _IMPORT), tree.body)
        at = len(list(first))
        new = cst.parse_module("\n".join(import_lines(self._imports)) + "\n").body
        return tree.with_changes(body=[*tree.body[:at], *new, *tree.body[at:]]).code

    def need(self, module: str, name: str, bound: str | None = None) -> None:
        """Let the module import a name; dots before `module` make the import relative."""
        self._imports.setdefault(module, {})[name] = bound or name

    def todo(self, reason: str) -> None:
        """Put a note above the statement that is being left."""
        if reason not in self._notes:
            self._notes.append(reason)

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        """Leave a node; a statement takes the notes, one that goes leaves them to the next."""
        result = super().on_leave(original_node, updated_node)
        if not self._notes or not isinstance(original_node, _STATEMENTS):
            return result
        nodes: list[Any] = list(result) if isinstance(result, cst.FlattenSentinel) else [result]
        if nodes and isinstance(nodes[0], _STATEMENTS) and getattr(nodes[0].body, "body", nodes[0].body):
            lines = [cst.EmptyLine(comment=cst.Comment(f"# TODO port: {reason}")) for reason in self._notes]
            nodes[0] = nodes[0].with_changes(leading_lines=[*nodes[0].leading_lines, *lines])
            self._notes = []
        return cst.FlattenSentinel(nodes) if isinstance(result, cst.FlattenSentinel) else nodes[0]


def code_of(node: cst.CSTNode) -> str:
    """Return the text of a node."""
    return cst.Module([]).code_for_node(node)


def dotted(node: Any) -> str:
    """Return `a.b.c` for a name and its attributes, with `()` for a call in it; empty for anything else."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Call):  # super().__init__
        return f"{dotted(node.func)}()"
    if isinstance(node, cst.Attribute) and (outer := dotted(node.value)):
        return f"{outer}.{node.attr.value}"
    return ""


def keep_names(node: cst.ImportFrom, kept: list[cst.ImportAlias]) -> Any:
    """Return an import of some of its names, or nothing where there are none."""
    if not kept:
        return cst.RemoveFromParent()
    return node.with_changes(names=[*kept[:-1], kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)])


def is_docstring(node: Any) -> bool:
    """Return whether a statement is a text alone."""
    return m.matches(node, m.SimpleStatementLine(body=[m.Expr(m.SimpleString() | m.ConcatenatedString())]))
