"""Write a config file as the difference between what it holds and what it imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from .expressions import Call, Joined, Missing, Name, Symbol, Writer, bare, import_lines, inside, same

_CLONE = 3  # a list of nodes is edited in place where at most so many of its items change


def write_file(names: dict[str, Any], bases: Sequence[tuple[str, dict[str, Any]]] = ()) -> str:
    """Return the text of a config file.

    Args:
        names: What it holds when it has run.
        bases: The base configs that it imports: module as in an import, and what it holds.
    """
    inherited: dict[str, Any] = {}
    for _, held in bases:
        inherited.update(held)
    writer = Writer({name: Symbol("", name) for name in (*names, *inherited)})
    body = list(_Difference(writer, inherited, names).statements())
    gone = [name for name in inherited if name not in names]
    imports = [f"from {module} import *" for module, _ in bases]
    lines = [*import_lines(writer.imports), *([""] if bases and writer.imports else []), *imports, ""]
    lines += [f"del {', '.join(gone)}"] if gone else []
    return "\n".join([*lines, *body]).rstrip() + "\n"


class _Difference:
    """The statements that turn one namespace into another.

    Top-level nodes are edited in place, so that whatever uses them follows; a name that must be bound anew is put
    again into each place that held it.
    """

    def __init__(self, writer: Writer, old: dict[str, Any], new: dict[str, Any]):
        self.writer, self.old, self.new = writer, old, new
        self.rebound = self._rebound()

    def _rebound(self) -> set[str]:
        """Return the names that are bound anew, or whose dict gets other nodes."""
        names = set()
        for name, new in self.new.items():
            old = self.old.get(name)
            if name in self.old and not same(old, new) and not self._is_editable(old, new):
                names.add(name)
        while True:  # an alias of what is bound anew
            more = {n for n, v in self.new.items() if isinstance(v, Name) and v.path in names and n in self.old} - names
            if not more:
                return names
            names |= more

    @staticmethod
    def _is_editable(old: Any, new: Any) -> bool:
        old, new = bare(old), bare(new)
        if isinstance(old, Call) and isinstance(new, Call):
            return old.target == new.target and old.partial == new.partial
        return (
            isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new)
            and all(isinstance(bare(old[key]), Call) and _Difference._is_editable(old[key], new[key]) for key in old)
        )  # fmt: skip

    def statements(self) -> Iterator[str]:
        """Yield the statements, each with its notes above."""
        for name, new in self.new.items():
            old = self.old.get(name)
            if name not in self.old:
                yield from self._assign(name, new)
            elif name in self.rebound:
                yield from self._rebind(name, old, new)
            else:
                yield from self._edit(name, old, new)

    def _rebind(self, name: str, old: Any, new: Any) -> Iterator[str]:
        call = bare(new)
        if isinstance(old, dict) and isinstance(call, Call) and old:
            kept = {key: value for key, value in call.arguments.items() if key in old}
            if kept.keys() == old.keys() and all(same(old[key], kept[key]) for key in old):
                rest = {key: value for key, value in call.arguments.items() if key not in old}
                new = Call(call.target, rest, call.partial, starred=name)
        yield from self._assign(name, new)

    def _assign(self, target: str, value: Any) -> Iterator[str]:
        yield from self._notes(target, value)
        yield f"{target} = {self.writer.text(value, 0, len(target) + 3)}"

    @staticmethod
    def _notes(target: str, value: Any) -> Iterator[str]:
        for path, part in inside(value):
            if isinstance(part, Missing):
                yield f"# TODO port: {target}{path}: {part.reason}"

    def _edit(self, path: str, old: Any, new: Any) -> Iterator[str]:
        """Yield what turns a value that stays in its place into another."""
        if same(old, new) and not self._follows_rebound(new):
            known = {part.reason for _, part in inside(old) if isinstance(part, Missing)}
            fresh = ((p, part) for p, part in inside(new) if isinstance(part, Missing) and part.reason not in known)
            yield from (f"# TODO port: {path}{inner}: {part.reason}" for inner, part in fresh)
            return
        if isinstance(new, Missing) and not isinstance(old, Missing):
            yield f"# TODO port: {path}: {new.reason}"
        bare_old: Any = bare(old)
        bare_new: Any = bare(new)
        if isinstance(bare_old, Call) and isinstance(bare_new, Call) and self._is_editable(bare_old, bare_new):
            for name in bare_old.arguments.keys() - bare_new.arguments.keys():
                yield f"del {path}.{name}"
            for name, value in bare_new.arguments.items():
                place = f"{path}.{name}"
                if name in bare_old.arguments:
                    yield from self._edit(place, bare_old.arguments[name], value)
                else:
                    yield from self._assign(place, value)
        elif self._is_alike(bare_old, bare_new):
            for key in bare_old if isinstance(bare_old, dict) else range(len(cast("list[Any]", bare_old))):
                place = f"{path}[{self.writer.text(key)}]"
                yield from self._edit(place, cast(Any, bare_old)[key], cast(Any, bare_new)[key])
        else:
            yield from self._assign(path, new)

    def _is_alike(self, old: Any, new: Any) -> bool:
        """Return whether two containers hold the same kinds of nodes, a few of which differ."""
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            pairs = list(zip(old, new))
        elif isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
            pairs = [(old[key], new[key]) for key in old]
        else:
            return False
        changed = [(a, b) for a, b in pairs if not same(a, b) or self._follows_rebound(b)]
        is_node = [isinstance(bare(a), Call) and self._is_editable(a, b) for a, b in changed]
        return bool(changed) and len(changed) <= _CLONE and all(is_node)

    def _follows_rebound(self, value: Any) -> bool:
        for _, part in inside(value):
            if isinstance(part, Name) and part.path.partition(".")[0] in self.rebound:
                return True
            if isinstance(part, Joined) and self.rebound & set(part.names):
                return True
        return False
