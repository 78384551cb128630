"""Log lines and progress bars, in a pseudo-terminal and without one."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lazyengine.logging import ProgressBar

ROOT = Path(__file__).parents[2]
TRAINING = """
    from lazyengine.logging import MMLogger, ProgressBar
    logger = MMLogger("x", rank=0, world_size=1)
    logger.info("begin [bold]as it is[/bold] 3.14")
    bar = ProgressBar(refreshes_per_s=1e6)
    bar.start()
    print("enabled:", bar.enabled)
    bar.begin("train", 4, "epoch 1/2")
    for i in range(4):
        bar.advance("train")
        bar.show("train", {"loss": 0.5 / (i + 1), "lr": 1e-3, "eta": "0:00:0%d" % i})
        logger.warning("step %d " % i + "x" * 100)
    bar.begin("val", 2)
    bar.advance("val")
    bar.show("val", {"acc": 0.75})
    bar.end("val")
    bar.stop()
    logger.error("end")
"""


def run_in_terminal(code):
    """Output of the code in a terminal of 80 columns."""
    pty = pytest.importorskip("pty")
    main, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
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
    assert "enabled: True" in plain
    assert "begin [bold]as it is[/bold] 3.14" in plain
    assert re.search(r"epoch 1/2 .*4/4 loss 0\.125\s+lr 0\.001", plain)
    assert re.search(r"val .*1/2 acc 0\.75", plain)
    lines = [line.strip() for line in plain.replace("\r", "\n").split("\n")]
    for i in range(4):  # each line whole and alone, not cut at the width, no bar in it
        place = r"\d\d-\d\d \d\d:\d\d:\d\d WARNING <string>:\d+  step "
        assert len([line for line in lines if re.fullmatch(place + f"{i} x{{100}}", line)]) == 1
    assert lines[-1] == "" or "end" in lines[-1]
    assert "\x1b[" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor comes back


def test_without_a_terminal_there_is_plain_text_and_no_bar():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[1] == "enabled: False"
    assert len(lines) == 7
    assert result.stderr == ""


def test_without_rich_there_is_plain_text_on_a_terminal():
    output = run_in_terminal("import sys; sys.modules['rich'] = None\n" + textwrap.dedent(TRAINING))
    assert "enabled: False" in output
    assert "\x1b" not in output
    assert len(output.splitlines()) == 7


def test_every_call_is_harmless_without_a_terminal(capsys):
    bar = ProgressBar()
    bar.start()
    bar.begin("train", None)
    bar.advance("train")
    bar.show("train", {"loss": 1.0})
    bar.end("train")
    bar.stop()
    assert not bar.enabled
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="must be positive, got 0"):
        ProgressBar(refreshes_per_s=0)
