"""Every test of an optimizer wrapper gets a message hub of its own."""

from collections.abc import Iterator

import pytest

from lazyengine.logging import MessageHub, MMLogger


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[MessageHub]:
    """Return a message hub that is the current one during the test."""
    before = dict(MessageHub._instances)
    yield MessageHub.get_instance(f"test {request.node.nodeid}")
    MessageHub._instances.clear()
    MessageHub._instances.update(before)


@pytest.fixture
def log_lines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Return the messages that reach the current logger during the test."""
    import logging

    before = dict(MMLogger._instances)
    logger = MMLogger.get_instance(f"test {request.node.nodeid}")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield lines
    MMLogger._instances.clear()
    MMLogger._instances.update(before)
