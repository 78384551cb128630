"""Which hook runs when: the order is worked out once, so that a point without hooks costs nothing."""

from __future__ import annotations

import difflib
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

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
        if isinstance(hooks, Hook):
            raise TypeError(f"hooks: expected a dict or a list of hooks, got a single {type(hooks).__name__}")
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

    def add_note(self, error: Exception, method: Callable[..., None], point: str) -> None:
        """Say in an exception which hook raised it, and at which point."""
        hook = getattr(method, "__self__", method)  # a function, where one was set on the hook object
        name = next((n for n, h in self.hooks.items() if h is hook), "?")
        error.add_note(f"raised in hook {type(hook).__name__}.{point} (hooks[{name!r}])")

    def warnings(self) -> list[str]:
        """Return what looks like a mistake: two hooks of one class, or one that runs before a hook that it follows."""
        found = []
        by_class: dict[type, list[str]] = {}
        for name, hook in self.hooks.items():
            by_class.setdefault(type(hook), []).append(name)
        for cls, names in by_class.items():
            if len(names) > 1:
                found.append(f"{cls.__name__} is there {len(names)} times: {', '.join(names)}")
        wrong: dict[tuple[str, str], list[str]] = {}
        for point in HOOK_POINTS:
            names = self.names_at(point)
            for i, name in enumerate(names):
                for later in names[i + 1 :]:
                    if self.hooks[name].must_follow(self.hooks[later]):
                        wrong.setdefault((name, later), []).append(point)
        for (name, later), points in wrong.items():
            first, second = (f"{n} (priority {get_priority(self.hooks[n].priority)})" for n in (name, later))
            found.append(
                f"{first} runs before {second} at {', '.join(points)}, and needs what that one does: "
                "give it a priority with a larger number"
            )
        return found

    def names_at(self, point: str) -> list[str]:
        """Return the names of the hooks of a point, in calling order."""
        return [name for name, hook in self.hooks.items() if overrides_point(hook, point)]

    def timeline(self, width: int = 120) -> str:
        """Return two tables: which hooks run at each point and in which order, and what each hook is.

        Args:
            width: Columns at which long rows of the first table are broken.
        """
        margin = max(map(len, HOOK_POINTS)) + 2
        lines = []
        for point in HOOK_POINTS:
            if names := self.names_at(point):
                order = textwrap.wrap(" > ".join(names), width - margin, break_long_words=False, break_on_hyphens=False)
                lines += [("" if i else point).ljust(margin) + part for i, part in enumerate(order)]
        rows = [("hook", "class", "priority", "acts", "file")]
        for name, hook in self.hooks.items():
            priority = str(get_priority(hook.priority))
            rows.append((name, type(hook).__name__, priority, hook.describe_interval(), _file_of(hook)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, "", *table])


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
                f"{type(hook).__name__}.{name} ({_file_of(hook)}) is not a hook point and would never be "
                f"called{f'; did you mean {near[0]!r}?' if near else ''} The points are: {', '.join(HOOK_POINTS)}"
            )


def _file_of(hook: Hook) -> str:
    """The file of a hook's class: relative to the working directory where that is shorter."""
    path = getattr(sys.modules.get(type(hook).__module__), "__file__", None)
    return "?" if path is None else min(os.path.relpath(path), path, key=len)
