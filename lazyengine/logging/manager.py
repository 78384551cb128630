"""Named instances of a class that any code reaches without passing them around."""

from __future__ import annotations

import inspect
import threading
import warnings
from typing import Any, TypeVar

_lock = threading.RLock()
_T = TypeVar("_T", bound="ManagerMixin")


class ManagerMeta(type):
    """Give each class its own table of instances, and check that its constructor takes ``name``.

    Raises:
        TypeError: When the class is defined with a constructor that has no ``name`` parameter.
    """

    _instances: dict[str, Any]

    def __init__(cls, *args: Any) -> None:
        super().__init__(*args)
        cls._instances = {}
        parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        if "name" not in parameters:
            accepted = ", ".join(parameters) or "nothing"
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__}: instances are found by their name, but __init__ accepts "
                f"({accepted}); add a parameter `name` and pass it to super().__init__"
            )


class ManagerMixin(metaclass=ManagerMeta):
    """Base class for objects that are shared by name within the process.

    Each subclass has its own instances: a hub and a logger may have the same name. Instances made by calling the class
    directly are ordinary objects and are not found by name.

    Args:
        name: Name of the instance, not empty.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{type(self).__name__}: name must be a non-empty str, got {name!r}")
        self._instance_name = name

    @property
    def instance_name(self) -> str:
        """Name under which the instance was created."""
        return self._instance_name

    @classmethod
    def get_instance(cls: type[_T], name: str, **kwargs: Any) -> _T:
        """Return the instance called ``name``, creating it with ``kwargs`` if there is none.

        Warns:
            UserWarning: When the instance exists and ``kwargs``, which then have no effect, are given.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"{cls.__name__}.get_instance: name must be a non-empty str, got {name!r}")
        with _lock:
            instance = cls._instances.get(name)
            if instance is None:
                instance = cls._instances[name] = cls(name=name, **kwargs)
            elif kwargs:
                warnings.warn(
                    f"{cls.__name__} {name!r} exists already: {', '.join(kwargs)} given to get_instance has no effect; "
                    f"call {cls.__name__}.discard_instance({name!r}) first to create it anew",
                    stacklevel=2,
                )
            return instance

    @classmethod
    def get_current_instance(cls: type[_T]) -> _T:
        """Return the instance that was created last.

        Raises:
            RuntimeError: When no instance was created yet.
        """
        with _lock:
            if not cls._instances:
                raise RuntimeError(
                    f"{cls.__name__}.get_current_instance: no instance exists; "
                    f"call {cls.__name__}.get_instance(name) first"
                )
            return cls._instances[next(reversed(cls._instances))]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Tell whether an instance called ``name`` exists."""
        return name in cls._instances

    @classmethod
    def discard_instance(cls, name: str) -> None:
        """Forget the instance called ``name``, if there is one: the next ``get_instance`` creates it anew."""
        with _lock:
            cls._instances.pop(name, None)
