"""The report of a run and of many: what is in it, that it asks no network, and that a browser draws every curve."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from lazyengine.cli import report as command
from lazyengine.logging import MetricsWriter
from lazyengine.runs import report
from lazyengine.runs.importance import explained_variance
from lazyengine.runs.reporting import MAX_BYTES
from lazyengine.visualization.images import encode_png

from .test_comparing import make_run
from .test_reading import list_starts, record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOG = """\
2026-01-31 12:00:00 INFO lazyengine/runner/runner.py:319 \x20
hooks, point by point:
before_run  logger

hook    class       priority
logger  LoggerHook  60

model:
Net
2026-01-31 12:00:01 WARNING lazyengine/x.py:1  the <batch> is small
2026-01-31 12:00:02 WARNING lazyengine/x.py:1  the <batch> is small
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was resumed with another rate, stopped, and has all that a report shows."""
    folder = tmp_path / "</script>run"
    first = folder / "20260131_120000"
    record(first, range(1, 6), 1.0)
    metrics = MetricsWriter(folder / "20260131_130000" / "metrics.jsonl")
    metrics.start(3)
    for step in range(4, 9):
        metrics.write({"loss": float("nan") if step == 5 else 1 / step, "lr": 0.1}, step=step)
        metrics.write({"accuracy/top1": step / 10}, step=step, mode="val")
    metrics.close()
    (folder / "20260131_130000" / "a.log").write_text(LOG)
    picture = folder / "20260131_130000" / "images" / "val" / "confusion_matrix_8.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    blame = ["optimizer = SGD   # base.py:3", "  lr: float = 0.5   # base.py:3, cli:#1 optimizer.lr=0.5"]
    edit = {"path": "optimizer.lr", "was": "0.1", "is": "0.5", "sources": ["base.py:3", "cli:#1 optimizer.lr=0.5"]}
    env = {"python": "3.12", "blame": blame, "edits": [edit], "packages": {"torch": "2.9"}, "git": {"commit": "abc"}}
    (folder / "20260131_130000" / "env.json").write_text(json.dumps(env))
    change = {"path": "optimizer.lr", "was": "0.1", "is": "0.5", "effect": "in force", "from_iter": 3, "why": ""}
    origin = {"run_id": "a", "path": "iter_3.pth", "iter": 3, "epoch": 0, "hash": "0"}
    ended = {"how": "stopped", "iter": 8, "reason": "SIGTERM"}
    list_starts(
        folder,
        {"folder": "20260131_120000", "command": ["lazyengine", "train", "it's.py"]},
        {"folder": "20260131_130000", "from": origin, "changes": [change], "ended": ended, "code": "f00d"},
    )
    return folder


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    for width in (8, 16):
        for rate in (0.001, 0.01, 0.1):
            for seed in range(2):
                result = 0.5 + width / 100 + seed / 1000
                name = f"w{width}_r{rate}_{seed}"
                make_run(root / name, result, model__width=width, optimizer__lr=rate, runner__seed=seed)
    list_starts(root / name, {"folder": "20260131_120000", "ended": {"how": "failed", "iter": 3, "reason": "a <bug>"}})
    return root


def text_of(page: Path) -> str:
    """What a reader sees, without scripts, as one line."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_report_of_a_run_has_all_its_parts(run, capsys):
    assert command.main([str(run)]) == 0
    page = run / "report.html"
    assert f"written: {page} (" in capsys.readouterr().out
    text = text_of(page)
    for part in (
        "script>run stopped",
        "val/accuracy/top1 0.8 8 0.8 8",
        "Difference to its base option base here set by over optimizer.lr 0.1 0.5 cli:#1 optimizer.lr=0.5 base.py:3",
        "optimizer.lr 0.1 0.5 3 in force",
        "before_run logger hook class priority logger LoggerHook 60 Environment",
        "python 3.12 git: commit abc 1 packages torch 2.9",
        "2 train 20260131_130000 iter_3.pth at iteration 3 f00d stopped 8 SIGTERM",
        "start 2 stopped iteration 8 SIGTERM log warning 2 times the <batch> is small",
        f"lazyengine rerun '{run}' --verify",
        "# start 1 was: lazyengine train 'it'\"'\"'s.py'",
    ):
        assert part in text, part
    assert 'src="data:image/png;base64,' in page.read_text()


def test_nothing_is_asked_of_a_network(run, many):
    for page in (report(run), report(many)):
        text = page.read_text()
        assert "default-src 'none'" in text
        found = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", text)
        assert all(each.startswith(("data:", "#")) or "${clip}" in each for each in found), found
        assert {*re.findall(r"https?://[^\s\"'<]+", text)} == {"http://www.w3.org/2000/svg"}


def test_a_long_run_with_many_pictures_stays_small(tmp_path):
    metrics = MetricsWriter(tmp_path / "start" / "metrics.jsonl")
    rng = np.random.default_rng(0)
    for step in range(20_000):
        metrics.write({f"loss{i}": rng.random() for i in range(5)}, step=step)
    metrics.close()
    images = tmp_path / "start" / "images"
    images.mkdir()
    for number in range(12):
        (images / f"noise{number}_{7}.png").write_bytes(encode_png(rng.integers(0, 255, (400, 400, 3), np.uint8)))
    page = report(tmp_path, tmp_path / "out.html")
    assert page.stat().st_size < MAX_BYTES
    assert "more in" in text_of(page)


def test_the_report_of_many_runs(many):
    text = text_of(report(many))
    assert text.startswith("many many 12 runs below")
    assert "11 finished, 1 failed" in text
    assert "Importances How much of the variance of the best val/accuracy/top1 each option alone explains" in text
    assert re.search(r"model.width █+ 100% (runner.seed|optimizer.lr) 0%", text)
    assert "w16_r0.1_1 failed 3 a <bug>" in text


def test_whose_a_color_is_stands_above_the_curves_as_long_as_there_is_one_for_each(many):
    def legend() -> list[str]:
        return re.findall(r'<i style="background: var\(--c\d\)"></i>([^<]*)</span>', report(many).read_text())

    assert legend() == []  # of 12
    for folder in sorted(many.glob("w8_*")):
        shutil.rmtree(folder)
    assert sorted(legend()) == sorted(path.name for path in many.glob("w16_*"))


def test_small_pictures_are_enlarged_to_their_pixels_and_others_are_not(run):
    for width in (8, 200):
        image = np.zeros((8, width, 3), np.uint8)
        (run / "20260131_130000" / "images").mkdir(exist_ok=True)
        (run / "20260131_130000" / "images" / f"wide{width}_8.png").write_bytes(encode_png(image))
    tags = {name: more for more, name in re.findall(r'<img src="[^"]*"([^>]*) alt="(\w+), ', report(run).read_text())}
    assert (tags["wide8"], tags["wide200"]) == (' width="160" style="image-rendering: pixelated"', "")


def test_how_much_an_option_explains():
    rng = np.random.default_rng(0)
    width = [*rng.choice(["8", "16", "32"], 300)]
    rates = [str(rate) for rate in 10 ** rng.uniform(-4, -1, 300)]
    results = [float(w) / 32 + 0.05 * rng.normal() for w in width]
    assert explained_variance(width, results) > 0.9
    assert explained_variance(rates, results) < 0.05
    assert explained_variance(rates, [float(rate) for rate in rates]) > 0.7
    assert explained_variance(["a"] * 300, results) is None
    assert explained_variance([str(i) for i in range(3)], results[:3]) is None


@pytest.mark.parametrize("args", [["nothing"], ["--keys", "top9"]])
def test_mistakes(run, tmp_path, args, capsys):
    target = [str(tmp_path / args[0])] if len(args) == 1 else [str(run), *args]
    assert command.main(target) == 2
    assert "Traceback" not in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- in a browser
def drawn(page: Path, profile: Path, *options: str) -> str:
    """The page's tree after its script ran; fails when the console had an error."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    command_line = [CHROMIUM, *flags, f"--user-data-dir={profile}", "--virtual-time-budget=5000", *options]
    done = subprocess.run(
        [*command_line, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@needs_chromium
def test_every_curve_of_a_run_is_drawn(run, tmp_path):
    tree = drawn(report(run), tmp_path / "profile")
    paths = re.findall(r'<path d="([^"]*)" class="curve"[^>]*>', tree)
    assert len(paths) == 3  # the loss, the accuracy, the rate
    assert all(path.count("L") + path.count("M") >= 4 for path in paths)
    assert [path.count("M") for path in paths].count(2) == 1  # a gap where the loss was not finite


@needs_chromium
def test_a_curve_without_a_finite_value_says_so(tmp_path):
    metrics = MetricsWriter(tmp_path / "start" / "metrics.jsonl")
    for step in (1, 2):
        metrics.write({"loss": float("nan")}, step=step, mode="train")
    metrics.close()
    assert "no finite value" in drawn(report(tmp_path), tmp_path / "profile")


@needs_chromium
@pytest.mark.parametrize("scheme", [0, 1])
def test_every_curve_of_many_runs_is_drawn(many, tmp_path, scheme):
    tree = drawn(report(many), tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}")
    curves = re.findall(r'class="curve"[^>]*data-name="([^"]*)"', tree)
    assert sorted(curves) == sorted([path.name for path in many.iterdir() if path.is_dir()] * 2)
    assert tree.count('class="par"') == 12
