"""The object that loading a config returns."""

from __future__ import annotations

from typing import Any

from .errors import UnknownNameError
from .signature import near
from .sources import Extra, Source, check_editable, describe_source, source_here

__all__ = ["Config", "add_value", "delete_value", "set_value", "values_of"]


class Config:
    """A loaded config: its attributes are the file's public names that hold data. A new name is an error.

    It has dunder members only, so that a file may call its values `keys` or `load`.
    """

    __slots__ = ("__extra__", "__file__", "__record__", "__values__")
    __hash__ = None  # type: ignore[assignment]  # equality is structural and values change

    __values__: dict[str, Any]
    __file__: str
    __extra__: Extra
    __record__: Any  # what the load knows of its source files (`loader.Load`); None for a copy or another origin

    def __init__(self, values: dict[str, Any], file: str = "", record: Any = None, extra: Extra | None = None):
        from .graph import adopt

        object.__setattr__(self, "__values__", values)
        object.__setattr__(self, "__file__", file)
        object.__setattr__(self, "__record__", record)
        object.__setattr__(self, "__extra__", extra or Extra())
        adopt(self, values)

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" == name[-2:]:
            raise AttributeError(name)
        try:
            return self.__values__[name]
        except KeyError:
            raise UnknownNameError(_no_such_name(self, name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        set_value(self, name, value, source_here(1))

    def __delattr__(self, name: str) -> None:
        delete_value(self, name, source_here(1))

    def __dir__(self) -> list[str]:
        return sorted(self.__values__)

    def __contains__(self, name: object) -> bool:
        return name in self.__values__

    def __eq__(self, other: object) -> bool:
        from .graph import is_equal

        return is_equal(self, other) if type(other) is Config else NotImplemented

    def __repr__(self) -> str:
        return f"<Config {self.__file__ or 'of no file'}: {', '.join(self.__values__)}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        from .graph import copy_graph

        return copy_graph(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        extra = self.__extra__
        return _blank, (self.__file__,), (self.__values__, extra.frozen, extra.described())

    def __setstate__(self, state: tuple[dict[str, Any], bool, dict[Any, list[Source]]]) -> None:
        from .graph import adopt

        values, frozen, history = state
        object.__setattr__(self, "__extra__", Extra(False, frozen, history))
        self.__values__.update(values)
        adopt(self, values)


def _blank(file: str) -> Config:
    return Config({}, file)


def values_of(config: Config) -> dict[str, Any]:
    """Return the names and values of a loaded config. The live dict: change it only through `set_value`."""
    return config.__values__


def set_value(config: Config, name: str, value: Any, source: Source) -> None:
    """Set a name that the config already has.

    Raises:
        UnknownNameError: It has no such name (`add_value` adds one).
        FrozenError: The config is frozen.
    """
    check_editable(config.__extra__.frozen, "config", name, source)
    if name not in config.__values__:
        raise UnknownNameError(f"{describe_source(source)}: {_no_such_name(config, name)}")
    add_value(config, name, value, source)


def add_value(config: Config, name: str, value: Any, source: Source) -> None:
    """Set a name, new or not (what an override `+name=value` does).

    Raises:
        FrozenError: The config is frozen.
    """
    from .graph import adopt

    check_editable(config.__extra__.frozen, "config", name, source)
    _remember(config, name, source)
    config.__values__[name] = value
    adopt(config, value)


def delete_value(config: Config, name: str, source: Source) -> None:
    """Remove a name.

    Raises:
        UnknownNameError: The config does not have it.
        FrozenError: The config is frozen.
    """
    check_editable(config.__extra__.frozen, "config", name, source)
    if name not in config.__values__:
        raise UnknownNameError(f"{describe_source(source)}: {_no_such_name(config, name)}")
    _remember(config, name, source)
    del config.__values__[name]


def first_sources(config: Config, name: str) -> list[Source]:
    """Return what the file itself set the name by: the line of its last assignment there."""
    if name not in config.__values__:
        return []
    found = config.__record__.assigned_at(name) if config.__record__ is not None else None
    return [found or config.__file__ or "?"]


def _remember(config: Config, name: str, source: Source) -> None:
    history = config.__extra__.history
    if name not in history:
        history[name] = first_sources(config, name)
    history[name].append(source)


def _no_such_name(config: Config, name: str) -> str:
    values = config.__values__
    return (
        f"{config.__file__ or 'The config'} has no name {name!r}.{near(name, values)} It has: {', '.join(values)}. "
        "Only the file itself (or an override +name=value) adds names."
    )
