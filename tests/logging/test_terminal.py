"""Log lines and progress bars, in a pseudo-terminal and without one."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lazyengine.logging.terminal import terminal_line, wrap_message
from lazyengine.visualization import ProgressBar

ROOT = Path(__file__).parents[2]
TRAINING = """
    from lazyengine.logging import MMLogger
    from lazyengine.visualization import ProgressBar
    logger = MMLogger("x")
    logger.info("begin [bold]as it is[/bold] 3.14")
    bar = ProgressBar(refreshes_per_s=1e6)
    bar.start()
    bar.begin("train", 4, "epoch 1/2")
    for i in range(4):
        bar.advance("train", lambda: {"loss": 0.5 / (i + 1), "lr": 1e-3, "eta": "0:00:0%d" % i})
        logger.warning("step %d" % i + " word" * 20)
    bar.begin("val", 2)
    bar.advance("val", lambda: {"acc": 0.75})
    bar.end("val")
    bar.stop()
    logger.error("end")
"""


def run_in_terminal(code, columns=80):
    """Output of the code in a terminal of so many columns."""
    pty = pytest.importorskip("pty")
    main, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    env.pop("NO_COLOR", None)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=child, stderr=child, stdin=child, cwd=ROOT, env=env) as process:
        os.close(child)
        output = b""
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not data:
                break
            output += data
    os.close(main)
    assert process.returncode == 0, output.decode()
    return output.decode()


def test_bars_and_lines_on_a_terminal():
    output = run_in_terminal(TRAINING)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "begin [bold]as it is[/bold] 3.14" in plain
    assert re.search(r"epoch 1/2 .*4/4 loss 0\.125\s+lr 0\.001", plain)
    assert re.search(r"val .*1/2 acc 0\.75", plain)
    lines = [line.rstrip() for line in plain.replace("\r", "\n").split("\n") if line.strip()]
    for i in range(4):  # each message whole and alone, in lines that are broken between words, no bar in them
        place = r"\d\d:\d\d:\d\d WARNING <string>:\d+  step "
        first = [n for n, line in enumerate(lines) if re.fullmatch(rf"{place}{i}( word)+", line)]
        assert len(first) == 1
        assert re.fullmatch(r" {10}word( word)+", lines[first[0] + 1])
        assert sum(line.count(" word") for line in lines[first[0] : first[0] + 2]) == 20
    assert "end" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert "\x1b[" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor comes back


@pytest.mark.parametrize("columns", [40, 80, 100, 140])
def test_the_status_line_fits_and_loses_its_last_value_first(columns):
    output = run_in_terminal(
        """
        from lazyengine.visualization import ProgressBar
        bar = ProgressBar(refreshes_per_s=1e6)
        bar.start()
        bar.begin("train", 4000, "epoch 100/300", completed=2500)
        bar.advance("train", lambda: {"loss": 0.5, "it/s": 12.5, "eta": "1:00:00", "memory": "12,345 MiB"})
        bar.stop()
        """,
        columns,
    )
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    lines = [line.rstrip() for line in plain.replace("\r", "\n").split("\n") if "2501/4000" in line]
    assert lines
    assert max(map(len, lines)) <= columns
    assert columns < 80 or "loss 0.5  it/s 12.5  eta 1:00:00" in lines[0]
    assert columns < 100 or "memory 12,345 MiB" in lines[0]


def test_without_a_terminal_there_is_plain_text_and_no_bar():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert result.stderr == ""


def test_without_rich_there_is_plain_text_on_a_terminal():
    output = run_in_terminal("import sys; sys.modules['rich'] = None\n" + textwrap.dedent(TRAINING))
    assert "\x1b" not in output
    assert len(output.splitlines()) == 2 + 4 * 2  # the long ones are broken


def test_every_call_is_harmless_without_a_terminal(capsys):
    bar = ProgressBar()
    bar.start()
    bar.begin("train", None)
    bar.advance("train")
    bar.end("train")
    bar.stop()
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="must be positive, got 0"):
        ProgressBar(refreshes_per_s=0)


def test_losses_come_first_and_times_where_they_fit():
    head = "Epoch(train)  [2][ 2/30]"
    line = f"{head}  lr: 1.0000e-02  eta: 1:02:05  num: 3  [mean of 10]  loss: 0.7500  time: 0.2000"
    assert terminal_line(line) == f"{head}  loss: 0.7500  num: 3  lr: 1.0000e-02  eta: 1:02:05  time: 0.2000"
    assert terminal_line(line, 70) == f"{head}  loss: 0.7500  num: 3  lr: 1.0000e-02"
    val = "Iter(val) [3/3]  acc: 1.0000  [mean of the epoch]  data_time: 0.2500  time: 0.5000"
    assert terminal_line(val) == "Iter(val) [3/3]  acc: 1.0000  data_time: 0.2500  time: 0.5000"


def test_a_message_is_broken_between_words_and_a_long_word_stays_whole():
    path = "/data/" + "x" * 40
    assert wrap_message("short", 20, 10) == "short"
    assert wrap_message(f"saved in {path} now", 30, 10) == f"saved in\n          {path}\n          now"
    assert wrap_message(f"{path} is new", 30, 20) == f"\n          {path}\n          is new"
    assert wrap_message("head\n  a b c d e", 8, 10) == "head\n  a b c\n    d e"


def test_no_value_is_lost_for_want_of_columns():
    values = {f"decode.loss_{name}": 0.1234 for name in ("class", "mask", "dice", "box", "giou", "points")}
    line = "Iter(train) [ 7/75]  lr: 1.0000e-02  [mean of 10]  "
    line += "  ".join(f"{name}: {value}" for name, value in values.items()) + "  acc: 0.5000  time: 0.1"
    lines = terminal_line(line).splitlines()
    assert all(len(each) <= 90 for each in lines)
    assert all(name in "".join(lines) for name in [*values, "acc", "lr"])
    assert "loss" in lines[0]


@pytest.mark.parametrize(
    "line",
    [
        "saving epoch_1.pth  and more",
        "Epoch(train) [1][ 2/30]  [max of all]  worst: 4.00",  # whose meaning is in its label
        "Epoch(val) [1][3/3]  matrix: \n[[1 0]\n [0 1]]\n  time: 0.5",
    ],
)
def test_other_lines_stay_as_they_are(line):
    assert terminal_line(line) == line


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(variable):
    switch = f"import os; os.environ.update({variable})\n"
    assert "\x1b" not in run_in_terminal(switch + textwrap.dedent(TRAINING))
