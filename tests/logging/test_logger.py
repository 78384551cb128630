import errno
import inspect
import io
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from lazyengine.logging import MMLogger, print_log
from lazyengine.visualization import ProgressBar

HERE = os.path.relpath(__file__)


def line_number():
    return inspect.currentframe().f_back.f_lineno


def test_lines_name_the_file_and_line_that_wrote_them(tmp_path, capsys):
    logger = MMLogger("x", log_file=tmp_path / "a" / "run.log")
    logger.info("hello %d", 3)
    place = f"{HERE}:{line_number() - 1}"
    text = (tmp_path / "a" / "run.log").read_text()
    assert capsys.readouterr().out == f"{text.split()[1]}  hello 3\n"  # people see what, and the file knows from where
    date, time, rest = text.split(" ", 2)
    assert (len(date), len(time)) == (10, 8)
    assert rest == f"INFO {place}  hello 3\n"
    assert logger.log_file == str(tmp_path / "a" / "run.log")
    logger.close()


@pytest.mark.parametrize("how", ["current", "named", "object", "standard"])
def test_print_log_names_its_caller(how, capsys, caplog):
    MMLogger.get_instance("other")
    current = MMLogger.get_instance("mine")
    logger = {"current": "current", "named": "mine", "object": current, "standard": logging.getLogger("std")}[how]
    print_log("hello", logger=logger, level="WARNING")
    line = line_number() - 1
    if how == "standard":
        assert (caplog.records[0].lineno, caplog.records[0].pathname) == (line, __file__)
    else:
        assert capsys.readouterr().out.endswith(f"WARNING {HERE}:{line}  hello\n")


def test_print_log_without_logger(capsys):
    print_log("plain")
    print_log("unheard", logger="silent")
    assert capsys.readouterr().out == "plain\n"
    with pytest.raises(ValueError, match=r"no MMLogger is called 'nobody'; there are: none"):
        print_log("x", logger="nobody")
    with pytest.raises(TypeError, match="must be a Logger, a str or None, got 3"):
        print_log("x", logger=3)  # type: ignore[arg-type]


def test_files_elsewhere_are_named_by_their_last_folders(tmp_path, capsys):
    """Of a warning; the place of what is normal is in the file alone."""
    path = tmp_path / "pkg" / "sub" / "code.py"
    exec(compile("\nlogger.warning('x')", str(path), "exec"), {"logger": MMLogger("x")})
    assert f"WARNING {os.path.join('pkg', 'sub', 'code.py')}:2  x" in capsys.readouterr().out


def test_nothing_is_printed_twice(capsys):
    logging.getLogger().addHandler(handler := logging.StreamHandler(sys.stdout))
    try:
        logger = MMLogger.get_instance("x")
        assert MMLogger.get_instance("x") is logger
        MMLogger.get_instance("x").info("once")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().out.count("once") == 1


def test_tracebacks_are_whole(tmp_path, capsys):
    logger = MMLogger("x", log_file=tmp_path / "run.log")
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError:
        logger.exception("it failed")
    logger.info("next")
    printed, text = capsys.readouterr().out, (tmp_path / "run.log").read_text()
    assert [line[11:] for line in text.splitlines()[:1]] == printed.splitlines()[:1]
    assert text.splitlines()[1:-1] == printed.splitlines()[1:-1]
    assert text.index("it failed") < text.index("KeyError: 'inner'") < text.index("ValueError: outer\n")
    assert text.count("Traceback (most recent call last)") == 2
    assert text.splitlines()[-1].endswith("  next")
    logger.close()


def test_what_is_long_is_in_the_file_alone(tmp_path, capsys):
    logger = MMLogger("x", log_file=tmp_path / "run.log")
    logger.to_file("the whole %s", "timeline")
    place = f"INFO {HERE}:{line_number() - 1}  the whole timeline"
    assert place in (tmp_path / "run.log").read_text()
    assert capsys.readouterr().out == ""
    logger.close()


def test_warnings_of_python_are_in_the_file_too(tmp_path, capsys):
    logger = MMLogger("x", log_file=tmp_path / "run.log")
    show = warnings.showwarning
    with pytest.warns(UserWarning, match="careful"), logger.keeping_warnings():
        warnings.warn("careful", UserWarning, stacklevel=1)
    assert warnings.showwarning is show
    assert "UserWarning: careful (" in (tmp_path / "run.log").read_text()
    assert capsys.readouterr().out == ""
    logger.close()


@pytest.mark.parametrize("asked", [logging.INFO, logging.WARNING, logging.ERROR])
def test_what_others_have_switched_off_for_a_while_is_written_again(asked, capsys):
    """A logger of Python's own tree is told when `logging.disable` ends; one beside it is not."""
    logger = MMLogger("quiet")
    logging.disable(asked)
    logger.log(asked, "unheard")
    logging.disable(logging.NOTSET)
    logger.log(asked, "heard")
    assert capsys.readouterr().out.count("heard") == 1


def test_levels(capsys):
    logger = MMLogger("x", log_level="warning")
    logger.info("quiet")
    logger.setLevel("INFO")
    logger.info("loud")
    logger.setLevel(logging.ERROR)
    logger.info("quiet")
    text = capsys.readouterr().out
    assert "loud" in text
    assert "quiet" not in text
    with pytest.raises(ValueError, match=r"unknown log level 'LOUD'; known are .*INFO"):
        MMLogger("y", log_level="LOUD")
    with pytest.raises(ValueError, match=r"unknown log level 1\.5"):
        MMLogger("y", log_level=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rank", "world_size", "distributed", "files"),
    [
        (0, 1, False, ["run.log"]),
        (0, 1, True, ["run.log"]),
        (0, 4, False, ["run.log"]),
        (3, 4, False, []),
        (0, 4, True, ["run.rank0.log"]),
        (3, 4, True, ["run.rank3.log"]),
    ],
)
def test_ranks(tmp_path, capsys, monkeypatch, rank, world_size, distributed, files):
    monkeypatch.setattr("lazyengine.dist.get_rank", lambda: rank)
    monkeypatch.setattr("lazyengine.dist.get_world_size", lambda: world_size)
    logger = MMLogger("x", log_file=tmp_path / "run.log", distributed=distributed)
    logger.info("news")
    logger.error("trouble")
    assert [path.name for path in tmp_path.iterdir()] == files
    for name in files:
        assert "news" in (tmp_path / name).read_text()
    text = capsys.readouterr().out
    assert "trouble" in text
    assert ("news" in text) == (rank == 0)
    logger.close()


def test_an_earlier_log_is_continued(tmp_path):
    for i in range(2):
        logger = MMLogger("x", log_file=tmp_path / "run.log")
        logger.info("start %d", i)
        logger.close()
    assert [line[-7:] for line in (tmp_path / "run.log").read_text().splitlines()] == ["start 0", "start 1"]


@pytest.mark.parametrize(("mode", "is_written"), [("a", True), ("w", False)])
def test_a_line_after_close_is_not_lost_and_destroys_nothing(tmp_path, capsys, mode, is_written):
    logger = MMLogger("x", log_file=tmp_path / "run.log", file_mode=mode)
    logger.info("early")
    logger.close()
    logger.info("late")
    logger.close()
    assert "late" in capsys.readouterr().out
    text = (tmp_path / "run.log").read_text()
    assert ("early" in text, "late" in text) == (True, is_written)


def test_a_killed_process_loses_no_line(tmp_path):
    code = """
        import os, signal, sys
        from lazyengine.logging import MMLogger
        logger = MMLogger("x", log_file=sys.argv[1])
        for i in range(100):
            logger.info("line %d", i)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run.log")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert process.returncode == -9
    for text in (process.stdout, (tmp_path / "run.log").read_text()):
        assert [line.split("  ")[1] for line in text.splitlines()] == [f"line {i}" for i in range(100)]


def test_the_name_in_logging_is_free(capsys):
    logger = MMLogger("x", logger_name="engine")
    assert logger.name == "engine"
    assert logger is not logging.getLogger("engine")
    assert logger.instance_name == "x"


class Closed(io.StringIO):
    """A terminal or pipe whose other end is closed, or a file on a full disk."""

    def __init__(self, code, is_terminal, num_writes=0):
        super().__init__()
        self.code, self.is_terminal, self.num_writes = code, is_terminal, num_writes

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.num_writes -= 1
        if self.num_writes < 0:
            raise OSError(self.code, os.strerror(self.code))
        return len(text)

    def fileno(self):
        return 1


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_terminal_that_is_closed_is_said_once_in_the_file(code, tmp_path, monkeypatch, capsys):
    logger = MMLogger("x", log_file=tmp_path / "run.log")
    logger.info("before")
    monkeypatch.setattr(sys, "stdout", Closed(code, is_terminal=False))
    for i in range(3):
        logger.info("line %d", i)
    assert capsys.readouterr().err == ""
    texts = [line.split("  ", 1)[1] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert texts == ["before", f"nothing more is written to stdout: [Errno {code}] {os.strerror(code)}"] + [
        f"line {i}" for i in range(3)
    ]
    logger.close()


@pytest.mark.parametrize("num_writes", [0, 6])
def test_a_bar_on_a_terminal_that_is_closed_ends(num_writes, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    closed = Closed(errno.EIO, is_terminal=True, num_writes=num_writes)
    monkeypatch.setattr(sys, "stdout", closed)
    bar = ProgressBar(refreshes_per_s=1e9)
    try:
        bar.start()
        bar.begin("train", 3)
        for _ in range(3):
            bar.advance("train", lambda: {"loss": 1.0})
        bar.end("train")
    finally:
        bar.stop()
    assert sys.stdout is closed
