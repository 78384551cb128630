"""Which hook runs when: the order is worked out once, so that a point without hooks costs nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .hook import HOOK_POINTS, Hook, get_priority

_GENERIC = {"before_iter": "_before_iter", "after_iter": "_after_iter", "before_epoch": "_before_epoch",
            "after_epoch": "_after_epoch"}  # fmt: skip


def _generic_form(point: str) -> str | None:
    """``before_train_iter`` -> ``_before_iter``; None for points without a mode."""
    when, _, rest = point.partition("_")
    return _GENERIC.get(f"{when}_{rest.partition('_')[2]}")


def overrides_point(hook: Hook, point: str) -> bool:
    """Whether `hook` does anything at `point`, itself or through the generic form of the point."""
    cls = type(hook)
    if getattr(cls, point) is not getattr(Hook, point) or point in vars(hook):
        return True
    generic = _generic_form(point)
    return generic is not None and getattr(cls, generic) is not getattr(Hook, generic)


class HookSchedule:
    """The hooks of a run in the order in which they are called.

    Args:
        hooks: Hooks by name, or a list; a list takes the class names as names.

    Raises:
        TypeError: When something else than a hook is given.
        ValueError: When one hook object, or two of one class that keep a state, are given twice; when a method is
            named like a hook point but is none (``after_trainiter``).

    Attributes:
        hooks: Name to hook, in calling order (priority, then the order given).
    """

    def __init__(self, hooks: Mapping[str, Hook] | Sequence[Hook]) -> None:
        named = list(hooks.items()) if isinstance(hooks, Mapping) else _name(hooks)
        seen: dict[int, str] = {}
        for name, hook in named:
            if not isinstance(hook, Hook):
                raise TypeError(f"hooks[{name!r}]: expected a Hook, got {type(hook).__name__}: {hook!r}")
            if id(hook) in seen:
                raise ValueError(
                    f"hook {type(hook).__name__} is given twice, as {seen[id(hook)]!r} and {name!r}: "
                    "it would run twice at every point; remove one, or clone() its node"
                )
            seen[id(hook)] = name
            _check_names(hook)
        order = sorted(range(len(named)), key=lambda i: get_priority(named[i][1].priority))
        self.hooks: dict[str, Hook] = {named[i][0]: named[i][1] for i in order}
        self.points: dict[str, tuple[Callable[..., None], ...]] = {
            point: tuple(getattr(h, point) for h in self.hooks.values() if overrides_point(h, point))
            for point in HOOK_POINTS
        }

    def call(self, point: str, *args: Any, **kwargs: Any) -> None:
        """Call every hook of `point` in order; an exception keeps its type and says which hook raised it.

        Raises:
            KeyError: For a point that is not one of `HOOK_POINTS`.
        """
        for method in self.points[point]:
            try:
                method(*args, **kwargs)
            except Exception as error:
                hook = method.__self__  # type: ignore[attr-defined]
                name = next((n for n, h in self.hooks.items() if h is hook), "?")
                error.add_note(f"raised in hook {type(hook).__name__}.{point} (hooks[{name!r}])")
                raise

    def warnings(self) -> list[str]:
        """Return what looks like a mistake in the list of hooks: two of one class, or an order left to chance."""
        found = []
        by_class: dict[type, list[str]] = {}
        for name, hook in self.hooks.items():
            by_class.setdefault(type(hook), []).append(name)
        for cls, names in by_class.items():
            if len(names) > 1:
                found.append(f"{cls.__name__} is there {len(names)} times: {', '.join(names)}")
        return found

    def timeline(self) -> str:
        """Return a table: point by point, which hook runs, in which order, how often, and from which file."""
        rows = [("point", "order", "hook", "priority", "interval", "file")]
        for point, methods in self.points.items():
            for order, method in enumerate(methods, 1):
                hook = method.__self__  # type: ignore[attr-defined]
                rows.append((
                    point if order == 1 else "",
                    str(order),
                    type(hook).__name__,
                    str(get_priority(hook.priority)),
                    hook.describe_interval(),
                    _place(hook, point),
                ))  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)


def _name(hooks: Sequence[Hook]) -> list[tuple[str, Hook]]:
    """Name the hooks of a list after their classes; a second one of a class gets a number."""
    counts: dict[str, int] = {}
    named = []
    for hook in hooks:
        name = type(hook).__name__
        counts[name] = counts.get(name, 0) + 1
        named.append((name if counts[name] == 1 else f"{name}_{counts[name]}", hook))
    return named


def _check_names(hook: Hook) -> None:
    """Refuse a public method that is named like a point but is none: it would never be called."""
    for name in dir(type(hook)):
        if name.startswith(("before_", "after_")) and name not in HOOK_POINTS and callable(getattr(hook, name)):
            near = difflib.get_close_matches(name, HOOK_POINTS, 1, 0.6)
            raise ValueError(
                f"{type(hook).__name__}.{name} ({_place(hook, name)}) is not a hook point and would never be "
                f"called{f'; did you mean {near[0]!r}?' if near else ''} The points are: {', '.join(HOOK_POINTS)}"
            )


def _place(hook: Hook, point: str) -> str:
    """``package/file.py:12`` of the method that does the work of a point."""
    method = getattr(hook, point)
    generic = _generic_form(point)
    if generic is not None and getattr(type(hook), point) is getattr(Hook, point):
        method = getattr(hook, generic)
    code = getattr(method, "__code__", None)
    if code is None:
        return "?"
    relative = os.path.relpath(code.co_filename)
    return f"{min(relative, code.co_filename, key=len)}:{code.co_firstlineno}"
