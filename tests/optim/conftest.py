"""Every test of an optimizer wrapper gets a message hub of its own."""

import pytest

from lazyengine.logging import MessageHub


@pytest.fixture
def hub(own_instances: None) -> MessageHub:
    """A message hub that is the current one during the test."""
    return MessageHub.get_instance("test")
