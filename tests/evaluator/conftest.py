"""Tests of metrics see what reaches the current logger."""

from tests.optim.conftest import log_lines

__all__ = ["log_lines"]
