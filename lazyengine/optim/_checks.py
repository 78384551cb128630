"""The refusals that the constructors of optimizer wrappers and schedulers share."""

from __future__ import annotations

from ..errors import UsageTypeError, UsageValueError


def require(holds: bool, refusal: str) -> None:
    """Raise a `UsageValueError` with this text unless a condition holds."""
    if not holds:
        raise UsageValueError(refusal)


def require_int(name: str, value: object, least: int) -> None:
    """Check that a value is an int, and no bool, of at least ``least``.

    Raises:
        UsageTypeError: It is no int.
        UsageValueError: It is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageTypeError(f"{name} must be an int; got {value!r}")
    require(value >= least, f"{name} must be at least {least}; got {value}")
