"""Each test has loggers, message hubs and visualizers of its own: none is current that another test has left.

Temporary folders are in memory where there is room: a suite that saves thousands of checkpoints waits for a disk.
"""

import logging
import os
import shutil
from collections.abc import Iterator

import pytest

from lazyengine.logging import MessageHub, MMLogger
from lazyengine.visualization import Visualizer

IN_MEMORY, NEEDS_BYTES = "/dev/shm", 4 << 30
if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > NEEDS_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)


@pytest.fixture(autouse=True)
def own_instances(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with none by a name; a logger that a runner has not closed is closed."""
    for managed in (MMLogger, MessageHub, Visualizer):
        monkeypatch.setattr(managed, "_instances", {})
    yield
    for logger in list(MMLogger._instances.values()):
        logger.close()


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
