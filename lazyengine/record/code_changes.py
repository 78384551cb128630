"""What differs between two versions of a project's code, named by file and function."""

from __future__ import annotations

import ast
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

from .code import NOTEBOOK, CodeRecord

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
MODULE = "<module>"
"""What is outside of functions, classes and assignments to a name."""


def changes(former: CodeRecord, present: CodeRecord) -> dict[str, list[str]]:
    """Return what differs between two records, by file: the functions, classes and names whose code is another one.

    Code is compared as a syntax tree: a comment or another line break is no change. A file that is not Python, or is
    there only once, gives an empty list. Config files are left out; their values are compared elsewhere.
    """
    configs = {*former.configs, *present.configs}
    old_hashes, new_hashes = ({**r.manifest()["files"], **r.by_hash} for r in (former, present))
    found: dict[str, list[str]] = {}
    for name in sorted({*old_hashes, *new_hashes} - configs):
        if old_hashes.get(name) == new_hashes.get(name):
            continue
        old, new = former.files.get(name), present.files.get(name)
        if old is None or new is None or not name.endswith(".py"):
            found[name] = []
        elif changed := _changed_parts(old, new):
            found[name] = changed
    return found


def changed_code(former: CodeRecord, present: CodeRecord) -> list[str]:
    """Return the changes between two records as lines: ``models/net.py: Net.forward``.

    A file that only the former has, and that is still there unchanged, may just not be imported yet, and is no change;
    nor is a project of which nothing is imported now: another program was started. Which project comes first depends on
    where the config lies, so files are known by their names within their project.
    """
    projects = {_plain(name): name.split("/")[0] for name in former.files if name.startswith("@")}
    former, present = map(_named_plainly, (former, present))
    used = {projects.get(name, "") for name in present.files if name in former.files}
    lines = []
    for name, parts in changes(former, present).items():
        if parts:
            lines += [f"{name}: {part}" for part in parts]
        elif name not in present.files and name not in present.by_hash:
            lines += _what_became_of(name, former, present) if projects.get(name, "") in used else []
        elif name not in former.files and name not in former.by_hash:
            lines.append(f"{name}: is new")
        else:
            lines.append(f"{name}: has another content")
    return lines


def changed_in_common(former: CodeRecord, present: CodeRecord) -> list[str]:
    """Return the changes of the files that both records have, as `changed_code` does.

    What only one of them imported belongs to its options.
    """
    common = former.files.keys() & present.files.keys() - {*former.configs, *present.configs}
    parts = [CodeRecord(files={name: code.files[name] for name in sorted(common)}) for code in (former, present)]
    return changed_code(*parts)


def code_fingerprints(record: CodeRecord) -> dict[str, str]:
    """Return a hash of what each file does, by name, without comments; config files are left out."""
    files = ((name, source) for name, source in record.files.items() if name not in record.configs)
    return {n: _fingerprint(source) if n.endswith(".py") else sha256(source).hexdigest() for n, source in files}


@functools.lru_cache(maxsize=4096)
def _fingerprint(source: bytes) -> str:
    return sha256(_parts(source)[""].encode()).hexdigest()


def _plain(name: str) -> str:
    return re.sub(r"^@\d+/", "", name)


def _named_plainly(record: CodeRecord) -> CodeRecord:
    """Return a record whose names have no number of a project, where that leaves them apart."""
    counts = Counter(map(_plain, [*record.files, *record.by_hash]))

    def named(files: dict[str, Any]) -> dict[str, Any]:
        return {_plain(name) if counts[_plain(name)] == 1 else name: value for name, value in files.items()}

    configs = list(named(dict.fromkeys(record.configs)))
    return replace(record, files=named(record.files), by_hash=named(record.by_hash), configs=configs)


def _what_became_of(name: str, former: CodeRecord, present: CodeRecord) -> list[str]:
    """Return the changes of a file that is not imported now, as it lies on the disk."""
    tops = [] if name.startswith(NOTEBOOK) else [*present.tops, *former.tops]
    path = next((at for top in tops if os.path.isfile(at := os.path.join(top, name))), "")
    if not path or name not in former.files:
        return [f"{name}: is not used any more"]
    with open(path, "rb") as file:
        content = file.read()
    if content == former.files[name]:
        return []
    if not name.endswith(".py"):
        return [f"{name}: has another content"]
    return [f"{name}: {part}" for part in _changed_parts(former.files[name], content)]


def _changed_parts(old: bytes, new: bytes) -> list[str]:
    of_old, of_new = _parts(old), _parts(new)
    named = {**of_old, **of_new}
    changed = [part for part in named if part != "" and of_old.get(part) != of_new.get(part)]
    return changed or ([MODULE] if of_old[""] != of_new[""] else [])


def _parts(source: bytes) -> dict[str, str]:
    """Return the syntax trees of a file's functions, classes and names by qualified name, as text; ``""`` is all."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a cell of a notebook may hold commands
        text = source.decode(errors="replace")
        return {"": text, MODULE: text}
    _remove_docstrings(tree)
    parts = {"": ast.dump(tree)}
    for owner, node in _take_apart(tree, "", ""):
        parts[owner] = parts.get(owner, "") + ast.dump(node) + "\n"
    return parts


def _remove_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _Definition | ast.Module):
            node.body = [n for n in node.body if not _is_text(n)]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _take_apart(node: ast.AST, owner: str, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield each statement with the name of what it belongs to; definitions are taken out of what is around them.

    Args:
        node: What is taken apart.
        owner: The function that it belongs to; empty in classes and modules, whose assignments have names of their own.
        prefix: Qualified name of the class or function around it.
    """
    for child in list(_statements(node)):
        if isinstance(child, _Definition):
            name = f"{prefix}.{child.name}" if prefix else child.name
            yield from _take_apart(child, "" if isinstance(child, ast.ClassDef) else name, name)
            child.body = []
            yield name, child
        elif any(isinstance(inner, _Definition) for inner in ast.walk(child)):
            yield from _take_apart(child, owner, prefix)
            yield owner or prefix or MODULE, child
        elif owner or (assigned := _assigned_name(child)) is None:
            yield owner or prefix or MODULE, child
        else:
            yield f"{prefix}.{assigned}" if prefix else assigned, child


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, []):
            if isinstance(child, ast.stmt):
                yield child
            else:  # the branch of a try or match statement
                yield from _statements(child)


def _assigned_name(node: ast.stmt) -> str | None:
    """Return the name that a statement assigns to, if it is one that assigns to one."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    is_assignment = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return target.id if is_assignment and isinstance(target, ast.Name) else None
