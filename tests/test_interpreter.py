"""Imports without Python's garbage collector leave it as it was, and what nobody needs is still collected."""

import gc
import subprocess
import sys
import weakref

import pytest

from lazyengine import interpreter
from lazyengine.config import LazyConfig


class Node:
    """May stand in a circle."""


def fail_in_a_pause() -> None:
    with interpreter.paused():
        assert not gc.isenabled()
        raise KeyError("gone")


@pytest.mark.parametrize("is_on", [True, False])
def test_the_collector_is_left_as_it_was_also_by_an_error(is_on):
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with pytest.raises(KeyError, match="gone"):
            fail_in_a_pause()
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_circles_made_in_a_pause_are_collected_later():
    with interpreter.paused():
        made = Node()
        made.itself = made  # type: ignore[attr-defined]
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_loading_a_config_in_a_notebook_freezes_nothing(tmp_path):
    (tmp_path / "config.py").write_text("lr = 0.1\n")
    LazyConfig.load(tmp_path / "config.py")
    assert gc.get_freeze_count() == 0


def test_a_command_never_looks_at_what_it_has_imported():
    program = """
import gc, sys
from lazyengine.cli.main import main
found = []
gc.callbacks.append(lambda phase, about: found.append(about["generation"]) if phase == "start" else None)
sys.argv = ["lazyengine", "show", "projects/digits/config.py", "optimizer.lr"]
main()
assert "torch" in sys.modules and gc.get_freeze_count() > 100_000
assert 2 not in found
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_call_with_room_is_a_call():
    def depth(left: int) -> int:
        return 1 + depth(left - 1) if left else 0

    assert interpreter.with_room(depth, 300) == 300
    with pytest.raises(RecursionError):
        interpreter.with_room(depth, sys.getrecursionlimit())
    with pytest.raises(KeyError, match="gone"):
        interpreter.with_room(fail_in_a_pause)
