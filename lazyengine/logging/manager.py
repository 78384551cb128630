"""Named instances of a class that any code reaches without passing them around, and which of them is current."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self

from ..errors import UsageRuntimeError, UsageTypeError

_lock = threading.RLock()
_entered: ContextVar[tuple[ManagerMixin, ...]] = ContextVar("instances made current", default=())
_entered_anywhere: list[ManagerMixin] = []  # of all threads, for those that have no context of their own


class ManagerMeta(type):
    """Give each class its own table of instances."""

    _instances: dict[str, Any]

    def __init__(cls, *args: Any) -> None:
        super().__init__(*args)
        cls._instances = {}


class ManagerMixin(metaclass=ManagerMeta):
    """Base class for objects that are shared by name within the process.

    Each subclass has its own instances: a hub and a logger may have the same name. Instances made by calling the class
    directly are ordinary objects and are not found by name. A running runner makes its own ones current, see
    `as_current`; what is closed is no longer found.

    Args:
        name: Name of the instance, not empty; kept as ``instance_name``.
    """

    _default_name: ClassVar[str | None] = None  # of the instance that is created where none is current

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise UsageTypeError(f"{type(self).__name__}: name must be a non-empty str, got {name!r}")
        self.instance_name = name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance called ``name``, creating it with ``kwargs`` if there is none.

        Warns:
            UserWarning: When the instance exists and ``kwargs``, which then have no effect, are given.
        """
        with _lock:
            instance = cls._instances.get(name)
            if instance is None:
                instance = cls._instances[name] = cls(name=name, **kwargs)
            elif kwargs:
                advice = f"{', '.join(kwargs)} given to get_instance has no effect; close() it first to create it anew"
                warnings.warn(f"{cls.__name__} {name!r} exists already: {advice}", stacklevel=2)
            return instance

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return the instance that the running runner made current (`as_current`), else the one created last.

        A thread sees what is current where it runs: within ``contextvars.copy_context().run`` that of its parent, else
        what was made current last in any thread.

        Raises:
            RuntimeError: When there is none. Of `MMLogger` and `MessageHub` one called ``lazyengine`` is created.
        """
        running = cls.get_running_instance()
        if running is not None:
            return running
        with _lock:
            if cls._instances:
                return cls._instances[next(reversed(cls._instances))]
            if cls._default_name is not None:
                return cls.get_instance(cls._default_name)
        raise UsageRuntimeError(
            f"{cls.__name__}.get_current_instance: no instance exists; call {cls.__name__}.get_instance(name) first"
        )

    @classmethod
    def get_running_instance(cls) -> Self | None:
        """Return the instance that was made current by `as_current`, as by a running runner; None outside of it."""
        for each in reversed(_entered.get() or tuple(_entered_anywhere)):
            if isinstance(each, cls):
                return each
        return None

    @contextmanager
    def as_current(self) -> Iterator[Self]:
        """Make this what `get_current_instance` of its class and base classes returns; afterwards the former one is."""
        former = _entered.get()
        _entered.set((*former, self))
        _entered_anywhere.append(self)
        try:
            yield self
        finally:
            _entered.set(former)
            with _lock:
                del _entered_anywhere[-1 - _entered_anywhere[::-1].index(self)]

    def close(self) -> None:
        """Remove the instance from those that are found by name. It may still be used by who holds it."""
        with _lock:
            for cls in type(self).__mro__:
                if isinstance(cls, ManagerMeta) and cls._instances.get(self.instance_name) is self:
                    del cls._instances[self.instance_name]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether an instance called ``name`` exists."""
        return name in cls._instances

    @classmethod
    def discard_instance(cls, name: str) -> None:
        """Remove the instance called ``name``, if there is one: the next ``get_instance`` creates it anew."""
        with _lock:
            cls._instances.pop(name, None)
