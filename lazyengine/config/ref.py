"""What stands for something else: `REQUIRED`, a `ref` to other values, and `Lazy`, the recipe of an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..text import did_you_mean
from .errors import ConfigError, RefError, UnsetError
from .graph import ABSENT, Source, children, describe_source, is_equal, line_here, part_of, source_here

if TYPE_CHECKING:
    from .instantiate import Build

T = TypeVar("T")


class _Required:
    """The type of `REQUIRED`: an argument that must be given before the node is built."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"

    def __bool__(self) -> bool:
        raise self.not_known("it has no truth value")

    def __format__(self, form: str) -> str:
        raise self.not_known("it cannot be part of a text")

    def not_known(self, what: str) -> UnsetError:
        """Return the error of Python that wants the value while the config is written."""
        return UnsetError(
            f"{line_here()}: REQUIRED stands for a value that is not known yet: {what}. Set it before, or ask "
            "`value is REQUIRED`."
        )


REQUIRED: Any = _Required()


class Ref:
    """What `ref(...)` returns: paths into the config that owns it, and what to make of the values found there."""

    __slots__ = ("function", "owner", "paths", "where")
    __hash__ = None  # type: ignore[assignment]  # compared by content

    def __init__(self, paths: tuple[str, ...], function: Callable[..., Any] | None, where: Source, owner: Any = None):
        self.paths, self.function, self.where, self.owner = paths, function, where, owner

    def __bool__(self) -> bool:
        raise self.not_known("has no truth value")

    def __format__(self, form: str) -> str:
        raise self.not_known("cannot be part of a text")

    def __str__(self) -> str:
        if self.owner is None:  # while the config is written
            raise self.not_known("cannot be part of a text")
        return repr(self)

    def not_known(self, what: str) -> RefError:
        """Return the error of Python that wants the value while the config is written."""
        return RefError(
            f"{line_here()}: {self!r} {what}: its value is known when the config is built. Compute "
            "with it there: ref(path, function)."
        )

    def __repr__(self) -> str:
        function = [getattr(self.function, "__qualname__", repr(self.function))] if self.function is not None else []
        return f"ref({', '.join([*map(repr, self.paths), *function])})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not Ref:
            return NotImplemented
        return self.paths == other.paths and is_equal(self.function, other.function)

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
    where = source_here()
    function = more[-1] if more and not isinstance(more[-1], str) else None
    paths = (path, *(more[:-1] if function is not None else more))
    is_called = function is not None or len(paths) > 1
    if not all(isinstance(p, str) and p for p in paths) or (is_called and not callable(function)):
        raise RefError(
            f"{describe_source(where)}: ref takes a path as text, as in ref('optimizer.lr'), or paths and then a "
            f"function of as many values; got {(path, *more)!r:.200}."
        )
    if function is not None:
        import inspect

        try:
            inspect.signature(function).bind(*paths)
        except TypeError as error:
            raise RefError(
                f"{describe_source(where)}: the function of a ref does not take one value a path: {error}."
            ) from None
        except ValueError:  # a builtin without a signature
            pass
    return Ref(paths, function, where)


def head_of(path: str) -> str:
    """Return the top-level name that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def check_ref(root: Any, ref: Ref, passed: tuple[Ref, ...] = (), is_final: bool = True) -> None:
    """Check that the paths of a ref lead to values (if not `is_final`, `REQUIRED` is one), and not back to itself."""
    for path in ref.paths:
        found = lookup(ref.owner or root, path, ref, passed, is_final)
        if type(found) is Ref:
            check_ref(root, found, (*passed, ref), is_final)


def lookup(root: Any, path: str, asked_by: Ref, passed: tuple[Ref, ...] = (), is_final: bool = True) -> Any:
    """Return what stands at a path of a config, node or container, not built; `passed` are the refs that led here."""
    from .grammar import parse_path  # its patterns take a millisecond to compile

    where = describe_source(asked_by.where)
    if any(asked_by is each for each in passed):
        raise RefError(f"{where}: {asked_by!r} leads in a circle back to itself: set a value there.")
    try:
        steps = parse_path(path)
    except ConfigError as error:
        raise RefError(f"{where}: {asked_by!r}: {error}.") from None
    value = root
    for step in steps:
        while type(value) is Ref and value.function is None:  # a plain alias on the way
            value = lookup(value.owner or root, value.paths[0], value, (*passed, asked_by))
        _, part = part_of(value, step)
        if part is ABSENT:
            inner, sig = dict(children(value) or ()), getattr(value, "__sig__", None)
            has = f"It has: {', '.join(map(str, inner))}" if inner else f"{type(value).__name__} has no parts"
            if sig is not None and step in sig.names:
                has = f"{sig.label} does not set it ({sig.default_text(step)}): set it in the config"
            raise RefError(
                f"{where}: {asked_by!r}: there is no {step!r} in {path!r}.{did_you_mean(step, inner)} {has}."
            )
        value = part
    if value is REQUIRED and is_final:
        raise RefError(f"{where}: {asked_by!r}: {path!r} is REQUIRED and was not set.")
    return value


class Lazy(Generic[T]):
    """A recipe that builds its object when it is called, within the `instantiate` that handed it out.

    A parameter annotated `T | Lazy[T]` (also in `Optional`, `list`, `dict`) receives it wherever the config has a node:

        class Runner:
            def __init__(self, model: nn.Module, optimizer: Optimizer | Lazy[Optimizer]): ...
                self.optimizer = optimizer() if isinstance(optimizer, Lazy) else optimizer

    Nodes that the recipe shares with the rest of the config are the same instances there; a second call, and a second
    `Lazy` of the same node, give the same object. Calls from several threads are safe.
    """

    __slots__ = ("_build", "_value")

    def __init__(self, build: Build, value: Any):
        self._build, self._value = build, value

    def __call__(self, **kwargs: Any) -> T:
        """Build the object, or return the one already built.

        Args:
            **kwargs: Arguments that the config leaves to the caller (or replaces); only with the call that builds.

        Raises:
            MissingArgumentError: A required argument is set neither here nor in the config.
            ConfigError: Arguments are given though the object was already built.
        """
        return self._build.late(self._value, kwargs)

    @property
    def target(self) -> Any:
        """The class or callable that the recipe will call (imported); the type of a container of recipes."""
        return self._build.target_of(self._value)

    @property
    def arguments(self) -> Mapping[str | int, Any]:
        """What the config gives to the target: a read-only view with nodes unbuilt, extra positionals by index."""
        return MappingProxyType(dict(children(self._value) or ()))

    @property
    def path(self) -> str:
        """The path of the recipe in its config, for messages."""
        return self._build.path_of(self._value)

    def __repr__(self) -> str:
        return f"<Lazy {self.path or 'root'}: {self._value!r}>"
