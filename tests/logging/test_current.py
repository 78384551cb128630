"""Which logger, hub and visualizer is current, and that what was closed is gone."""

from __future__ import annotations

import contextvars
import os
import threading

import pytest

from lazyengine.logging import ManagerMixin, MessageHub, MMLogger, print_log
from lazyengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

MANAGED = [MMLogger, MessageHub, Visualizer]


@pytest.mark.parametrize("cls", MANAGED)
def test_the_entered_instance_is_current_and_gives_the_former_one_back(cls):
    a, b = cls("a"), cls.get_instance("b")
    c = cls.get_instance("c")
    assert cls.get_current_instance() is c
    with a.as_current() as entered:
        assert entered is a is cls.get_current_instance()
        with b.as_current():
            cls.get_instance("d")
            assert cls.get_current_instance() is b
            with a.as_current():
                assert cls.get_current_instance() is a
            assert cls.get_current_instance() is b
        assert cls.get_current_instance() is a
    assert cls.get_current_instance() is cls.get_instance("d")


def test_it_is_given_back_after_an_error():
    a = MessageHub("a")
    with pytest.raises(InterruptedError), a.as_current():
        raise InterruptedError
    assert MessageHub.get_current_instance() is not a


def test_classes_have_their_own_and_a_subclass_stands_for_its_base():
    class Mine(MMLogger):
        pass

    mine, hub = Mine("mine"), MessageHub.get_instance("hub")
    with mine.as_current():
        assert MMLogger.get_current_instance() is mine
        assert MessageHub.get_current_instance() is hub


def test_print_log_follows(tmp_path):
    a, b = (MMLogger.get_instance(name, log_file=tmp_path / f"{name}.log") for name in "ab")
    with a.as_current():
        print_log("of a", logger="current")
        with b.as_current():
            print_log("of b", logger="current")
    print_log("of the newest", logger="current")
    for logger in (a, b):
        logger.close()
    assert [[line.split("  ")[1] for line in (tmp_path / f"{n}.log").read_text().splitlines()] for n in "ab"] == [
        ["of a"],
        ["of b", "of the newest"],
    ]


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_without_a_context_sees_what_was_entered_last():
    a, b = MessageHub("a"), MessageHub.get_instance("b")
    assert in_thread(MessageHub.get_current_instance) is b
    with a.as_current():
        assert in_thread(MessageHub.get_current_instance) is a
    assert in_thread(MessageHub.get_current_instance) is b


def test_a_thread_with_the_context_of_its_run_keeps_that_whatever_runs_meanwhile():
    a, b = MMLogger("a"), MMLogger("b")
    with a.as_current():
        context = contextvars.copy_context()
    with b.as_current():
        assert in_thread(lambda: context.run(MMLogger.get_current_instance)) is a


def test_runs_in_threads_do_not_see_each_other():
    barrier = threading.Barrier(2, timeout=60)
    found = {}

    def run(name):
        with MessageHub(name).as_current():
            barrier.wait()
            found[name] = MessageHub.get_current_instance().instance_name
            barrier.wait()

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}


def num_open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux lists them")
def test_a_thousand_runs_leave_no_open_file_and_no_instance(tmp_path, capsys):
    def run(number):
        name, folder = f"run {number}", tmp_path / str(number % 10)
        logger = MMLogger.get_instance(name, log_file=folder / "run.log")
        hub = MessageHub.get_instance(name)
        visualizer = Visualizer(name, [LocalVisBackend(), TensorboardVisBackend()], folder)
        with logger.as_current(), hub.as_current(), visualizer.as_current():
            visualizer.start()
            print_log("a line", logger="current")
            MessageHub.get_current_instance().update_scalar("train/loss", 1.0)
            Visualizer.get_current_instance().add_scalar("loss", 1.0, number)
        for opened in (logger, hub, visualizer):
            opened.close()

    run(0)
    before = num_open_files()
    for number in range(1, 1000):
        run(number)
    assert num_open_files() <= before  # earlier tests may have left some that are closed meanwhile
    assert [len(cls._instances) for cls in MANAGED] == [0, 0, 0]
    with pytest.raises(RuntimeError, match="no instance exists"):
        Visualizer.get_current_instance()


def test_closing_removes_no_other_instance_of_the_name():
    class Shared(ManagerMixin):
        pass

    first = Shared.get_instance("a")
    first.close()
    second = Shared.get_instance("a")
    first.close()
    assert Shared.get_instance("a") is second
