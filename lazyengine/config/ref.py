"""`ref`: a value that is computed from other values of the config, after all overrides."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .errors import ConfigError, RefError
from .sources import Source, describe_source


class Ref:
    """What `ref(...)` returns: paths into the config that owns it, and what to make of the values found there."""

    __slots__ = ("function", "owner", "paths", "where")
    __hash__ = None  # type: ignore[assignment]  # compared by content

    def __init__(self, paths: tuple[str, ...], function: Callable[..., Any] | None, where: Source, owner: Any = None):
        self.paths, self.function, self.where, self.owner = paths, function, where, owner

    def __repr__(self) -> str:
        parts = [repr(path) for path in self.paths]
        if self.function is not None:
            parts.append(getattr(self.function, "__qualname__", repr(self.function)))
        return f"ref({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        from .graph import is_equal

        return is_equal(self, other) if type(other) is Ref else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        return Ref, (self.paths, self.function, describe_source(self.where))

    def __deepcopy__(self, memo: dict[int, Any]) -> Ref:
        return Ref(self.paths, self.function, self.where, memo.get(id(self.owner), self.owner))


def ref(path: str, /, *more: Any) -> Any:
    """Refer to other values of the loaded config: follows overrides, and is computed when the config is built.

        steps = ref("train_loop.max_epochs", "steps_per_epoch", lambda epochs, steps: epochs * steps)
        scheduler = LazyCall(CosineAnnealingLR)(eta_min=ref("optimizer.lr", lambda lr: lr / 100))

    Args:
        path: A path from the top of the config, as on the command line. A node found there stands for its instance.
        *more: Further paths, then optionally the function; it takes one value per path. Without one, the only value
            is taken as it is.

    Raises:
        RefError: The arguments are not paths, or there are several but no function. Whether the paths exist is
            checked when the config is loaded, cycles when they are computed.
    """
    frame = sys._getframe(1)
    where = (frame.f_code, frame.f_lasti)
    function = more[-1] if more and not isinstance(more[-1], str) else None
    paths = (path, *(more[:-1] if function is not None else more))
    if not all(isinstance(p, str) and p for p in paths) or (function is not None and not callable(function)):
        raise RefError(f"{describe_source(where)}: ref takes paths and then a function, got {(path, *more)!r:.200}.")
    if function is None and len(paths) > 1:
        raise RefError(
            f"{describe_source(where)}: ref with {len(paths)} paths needs a function of {len(paths)} values."
        )
    return Ref(paths, function, where)


def lookup(root: Any, path: str, asked_by: Ref) -> Any:
    """Return what stands at a path of a config, node or container, not built."""
    from .grammar import parse_path
    from .node import REQUIRED, children_of
    from .signature import near

    where = describe_source(asked_by.where)
    try:
        steps = parse_path(path)
    except ConfigError as error:
        raise RefError(f"{where}: {asked_by!r}: {error}.") from None
    value = root
    for step in steps:
        while type(value) is Ref and value.function is None:  # a plain alias on the way
            value = lookup(value.owner or root, value.paths[0], value)
        children = dict(children_of(value) or ())
        if step not in children:
            has = f"It has: {', '.join(map(str, children))}" if children else f"{type(value).__name__} has no parts"
            raise RefError(f"{where}: {asked_by!r}: there is no {step!r} in {path!r}.{near(step, children)} {has}.")
        value = children[step]
    if value is REQUIRED:
        raise RefError(f"{where}: {asked_by!r}: {path!r} is REQUIRED and was not set.")
    return value
