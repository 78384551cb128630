"""Each test has loggers, message hubs and visualizers of its own: none is current that another test has left."""

import logging
from collections.abc import Iterator

import pytest

from lazyengine.logging import MessageHub, MMLogger
from lazyengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def own_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with none by a name."""
    for managed in (MMLogger, MessageHub, Visualizer):
        monkeypatch.setattr(managed, "_instances", {})


@pytest.fixture
def log_lines(own_instances: None) -> Iterator[list[str]]:
    """The messages that reach the current logger during the test."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_instance("test")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
