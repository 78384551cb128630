"""Which hook runs when: the order is worked out once, so that a point without hooks costs nothing."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

from ..errors import UsageTypeError, UsageValueError
from ..text import did_you_mean, table
from .hook import HOOK_POINTS, Hook, get_priority


def _method(hook: Hook, point: str) -> Callable[..., None] | None:
    """Return what to call at a point: of an iteration, which comes often, the generic form itself; None for nothing."""
    cls, (when, *mode, unit) = type(hook), point.split("_")
    if point in vars(hook) or getattr(cls, point) is not getattr(Hook, point):
        return getattr(hook, point)
    generic = f"_{when}_{unit}"  # before_train_iter -> _before_iter
    if not hasattr(Hook, generic) or getattr(cls, generic) is getattr(Hook, generic):
        return None
    return functools.partial(getattr(hook, generic), mode=mode[0]) if unit == "iter" else getattr(hook, point)


class HookSchedule:
    """The hooks of a run: a container that iterates over them in calling order, and finds each by its name.

    Args:
        hooks: Hooks by name, or a list; a list takes the class names as names.

    Raises:
        TypeError: When something else than a hook is given.
        ValueError: When one hook object is given twice, or two hooks of one class that keep a state in a list; when a
            method is named like a hook point but is none (``after_trainiter``).

    Attributes:
        points: The methods to call at each point by the names of their hooks, in calling order.
    """

    def __init__(self, hooks: Mapping[str, Hook] | HookSchedule | Sequence[Hook]) -> None:
        if isinstance(hooks, Hook):
            raise UsageTypeError(f"hooks: expected a dict or a list of hooks, got a single {type(hooks).__name__}.")
        named = list(hooks.items()) if isinstance(hooks, Mapping | HookSchedule) else _name(hooks)
        seen: dict[int, str] = {}
        for name, hook in named:
            if not isinstance(hook, Hook):
                raise UsageTypeError(f"hooks[{name!r}]: expected a Hook, got {type(hook).__name__}: {hook!r}.")
            if (other := seen.setdefault(id(hook), name)) != name:
                raise UsageValueError(
                    f"hook {type(hook).__name__} is given twice, as {other!r} and {name!r}: "
                    "it would run twice at every point; remove one, or clone() its node."
                )
            _check_names(hook)
        self._sort(named)

    def _sort(self, named: Sequence[tuple[str, Hook]]) -> None:
        self._by_name = dict(sorted(named, key=lambda pair: get_priority(pair[1].priority)))
        self.points: dict[str, dict[str, Callable[..., None]]] = {
            point: {name: method for name, hook in self.items() if (method := _method(hook, point)) is not None}
            for point in HOOK_POINTS
        }

    # ------------------------------------------------------------------ a container
    def __iter__(self) -> Iterator[Hook]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name_or_hook: object) -> bool:
        return name_or_hook in self._by_name or any(hook is name_or_hook for hook in self)

    def __getitem__(self, name: str) -> Hook:
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"no hook {name!r}; there are {list(self._by_name)}") from None

    def keys(self) -> KeysView[str]:
        """Return the names, in calling order."""
        return self._by_name.keys()

    def values(self) -> ValuesView[Hook]:
        """Return the hooks, in calling order."""
        return self._by_name.values()

    def items(self) -> ItemsView[str, Hook]:
        """Return names and hooks, in calling order."""
        return self._by_name.items()

    def register(self, hook: Hook) -> None:
        """Add a hook under the name of its class, behind those of the same priority; a second one gets a number.

        Raises:
            TypeError: When it is none.
            ValueError: When it is there already, or has a method that is named like a hook point but is none.
        """
        name = type(hook).__name__
        taken = sum(type(other).__name__ == name for other in self)
        name = name if name not in self._by_name else f"{name}_{taken + 1}"
        self._sort(list(HookSchedule({**self._by_name, name: hook}).items()))

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Return the states of the hooks that have one, by name; no part of it is shared with a hook."""
        return {name: copy.deepcopy(state) for name, hook in self.items() if (state := hook.state_dict())}

    def load_state_dict(self, states: Mapping[str, Any]) -> list[str]:
        """Restore the states of hooks, and return the names for which there is no hook."""
        for name, hook in self.items():
            if name in states:
                hook.load_state_dict(states[name])
        return [name for name in states if name not in self._by_name]

    # ------------------------------------------------------------------ what is called when
    def skip(self, hook: Hook, point: str) -> None:
        """Do not call a hook at a point any more, for one that has found that it has nothing to do there."""
        self.points[point] = {name: method for name, method in self.points[point].items() if self[name] is not hook}

    def warnings(self) -> list[str]:
        """Return what looks like a mistake: two hooks of one class, or one that runs before a hook that it follows."""
        by_class: dict[type, list[str]] = {}
        for name, hook in self.items():
            by_class.setdefault(type(hook), []).append(name)
        twice = ((cls.__name__, names) for cls, names in by_class.items() if len(names) > 1)
        found = [f"{cls} is there {len(names)} times: {', '.join(names)}" for cls, names in twice]
        wrong: dict[tuple[str, str], list[str]] = {}
        for point, methods in self.points.items():
            for pair in itertools.combinations(methods, 2):
                if self[pair[0]].must_follow(self[pair[1]]):
                    wrong.setdefault(pair, []).append(point)
        for pair, points in wrong.items():
            first, second = (f"{name} (priority {get_priority(self[name].priority)})" for name in pair)
            found.append(
                f"{first} runs before {second} at {', '.join(points)}, and needs what that one does: "
                "give it a priority with a larger number"
            )
        return found

    def timeline(self, width: int = 120) -> str:
        """Return two tables: which hooks run at each point and in which order, and what each hook is.

        Args:
            width: Columns at which long rows are broken.
        """
        margin = max(map(len, HOOK_POINTS)) + 2
        wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        wrap.subsequent_indent = " " * margin
        lines = []
        for point, methods in self.points.items():
            wrap.initial_indent = point.ljust(margin)
            lines += wrap.wrap(" > ".join(methods))
        rows = [("hook", "class", "priority", "acts", "file")]
        for name, hook in self.items():
            priority = str(get_priority(hook.priority))
            rows.append((name, type(hook).__name__, priority, hook.describe_interval(), _file_of(hook)))
        if width < 110:  # where there is no room for all, the class tells the file
            rows = [row[:-1] for row in rows]
        return "\n".join([*lines, "", table(rows, columns=width)])


def _name(hooks: Sequence[Hook]) -> list[tuple[str, Hook]]:
    """Name the hooks of a list after their classes; a second one of a class gets a number."""
    counts: Counter[str] = Counter()
    named = []
    for hook in hooks:
        name = type(hook).__name__
        counts[name] += 1
        if counts[name] > 1 and isinstance(hook, Hook) and type(hook).state_dict is not Hook.state_dict:
            raise UsageValueError(
                f"hooks: the list has several {name}, whose saved states would be told apart by their order alone; "
                f"name them: hooks={{'first': {name}(...), 'second': {name}(...), ...}}."
            )
        named.append((name if counts[name] == 1 else f"{name}_{counts[name]}", hook))
    return named


def _check_names(hook: Hook) -> None:
    """Refuse a public method that is named like a point but is none: it would never be called."""
    for name in dir(type(hook)):
        if name.startswith(("before_", "after_")) and name not in HOOK_POINTS and callable(getattr(hook, name)):
            raise UsageValueError(
                f"{type(hook).__name__}.{name} ({_file_of(hook)}) is not a hook point and would never be called."
                f"{did_you_mean(name, HOOK_POINTS)} The points are: {', '.join(HOOK_POINTS)}."
            )


def _file_of(hook: Hook) -> str:
    """The file of a hook's class: relative to the working directory where that is shorter, of the engine's to it."""
    if type(hook).__module__.startswith("lazyengine."):
        return f"{type(hook).__module__.replace('.', '/')}.py"
    path = getattr(sys.modules.get(type(hook).__module__), "__file__", None)
    return "?" if path is None else min(os.path.relpath(path), path, key=len)
