"""A pipeline of transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UsageTypeError


class Compose:
    """Call transforms one after the other, each with the result of the one before.

    A transform that returns None says that the sample cannot be used: the rest is skipped and the result is None.

    Args:
        transforms: Callables of one argument; None stands for no transforms.

    Raises:
        TypeError: A transform is not callable.
    """

    def __init__(self, transforms: Iterable[Callable[[Any], Any]] | None) -> None:
        self.transforms: list[Callable[[Any], Any]] = list(transforms or ())
        for step, transform in enumerate(self.transforms):
            if not callable(transform):
                raise UsageTypeError(
                    f"pipeline[{step}] is not callable: got {transform!r}; a transform is a function or an object with "
                    "`__call__(data)`" + ("; write LazyCall(cls)(...) for it" if isinstance(transform, dict) else "")
                )

    def __call__(self, data: Any) -> Any:
        """Return the transformed data, or None if a transform gave up on it."""
        step = 0
        try:
            for step, transform in enumerate(self.transforms):  # noqa: B007 - named in the note
                data = transform(data)
                if data is None:
                    return None
        except Exception as error:
            error.add_note(f"in pipeline[{step}]: {self.transforms[step]!r}")
            raise
        return data

    def __repr__(self) -> str:
        return "\n    ".join([f"{type(self).__name__}(", *map(str, self.transforms)]) + "\n)"
