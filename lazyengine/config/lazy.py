"""`Lazy[T]`: the annotation by which a parameter asks for the recipe of an object instead of the object."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from .instantiate import Build


T = TypeVar("T")


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
        from .node import is_node, resolve_target

        return resolve_target(self._value) if is_node(self._value) else type(self._value)

    @property
    def arguments(self) -> Mapping[str | int, Any]:
        """What the config gives to the target: a read-only view with nodes unbuilt, extra positionals by index."""
        from .node import children_of

        return MappingProxyType(dict(children_of(self._value) or ()))

    @property
    def path(self) -> str:
        """The path of the recipe in its config, for messages."""
        return self._build.path_of(self._value)

    def __repr__(self) -> str:
        return f"<Lazy {self.path or 'root'}: {self._value!r}>"
