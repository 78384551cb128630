"""Runs seen afterwards: their curves, and what differs between them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lazyengine.analysis.curves import draw_curves, smooth
from lazyengine.cli import compare, plot
from lazyengine.config import LazyConfig
from lazyengine.logging import MetricsWriter
from lazyengine.runs import choose_keys, compare_runs, read_outlines, read_runs

CONFIG = """\
from argparse import Namespace
from lazyengine.config import LazyCall as L

model = L(Namespace)(width={width}, parts=(L(Namespace)(width=1), 2))
runner = L(Namespace)(model=model, work_dir="{folder}")
"""


def save_config(text: str, folder: Path) -> None:
    (folder / "source.py").write_text(text)
    LazyConfig.save(LazyConfig.load(str(folder / "source.py")), str(folder / "config.json"))


def make_run(folder: Path, *, width: int = 8, scale: float = 1.0, first_step: int = 10, start: str = "s1") -> Path:
    """A run of 50 iterations with a loss and a metric, as a start of the engine writes it."""
    metrics = MetricsWriter(folder / start / "metrics.jsonl")
    if first_step > 10:
        metrics.start(first_step - 10)
    for step in range(first_step, 51, 10):
        metrics.write({"loss": scale / step, "lr": 0.1, "time": 0.5}, step=step, epoch=1)
        if step % 20 == 0:
            metrics.write({"acc/top1": 1 - scale / step, "fid": 3.0, "time": 0.1}, step=step, epoch=1, mode="val")
    metrics.close()
    save_config(CONFIG.format(width=width, folder=folder), folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(make_run(tmp_path / "a")), str(make_run(tmp_path / "b", width=16, scale=2.0))]


def test_curves_of_two_runs_in_the_terminal_and_in_a_picture(runs, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert plot.main([*runs, "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "train/loss: ● a   ○ b"
    assert "val/acc/top1: ● a   ○ b" in out
    assert "time" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_keys_choose_curves_by_any_part_of_their_name(runs):
    read = read_runs(runs)
    assert choose_keys(read, ["top1", "lr"]) == ["val/acc/top1", "train/lr"]
    assert choose_keys(read, ["val/*"]) == ["val/acc/top1", "val/fid", "val/time"]
    assert choose_keys(read, None) == ["train/loss", "val/acc/top1", "val/fid"]
    with pytest.raises(ValueError, match=r"called 'los'[.] Did you mean .loss.\? There are: train/loss, train/lr"):
        choose_keys(read, ["los"])


def test_starts_of_a_resumed_run_are_one_curve(tmp_path):
    make_run(tmp_path / "run", scale=1.0)
    make_run(tmp_path / "run", scale=5.0, first_step=30, start="s2")
    (run,) = read_runs([str(tmp_path / "run")])
    assert run.curves["train/loss"] == ([10, 20, 30, 40, 50], [1 / 10, 1 / 20, 5 / 30, 5 / 40, 5 / 50])


def test_metrics_and_learning_rates_are_drawn_as_they_are(runs):
    (run,) = read_runs(runs[:1])
    texts = {
        key: plot.draw([run], [key], weight, width=60) for key, weight in (("train/lr", 0.9), ("val/acc/top1", 0.9))
    }
    assert texts == {key: plot.draw([run], [key], 0.0, width=60) for key in texts}
    assert plot.draw([run], ["train/loss"], 0.9, width=60) != plot.draw([run], ["train/loss"], 0.0, width=60)


def test_smoothing_is_the_unbiased_average():
    assert smooth([1, 2, 3], [1.0, 2.0, 3.0], 0.0) == [1.0, 2.0, 3.0]
    assert smooth([1, 2, 9], [4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    assert smooth([5, 6], [1.0, 2.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 2) / 0.75])
    assert smooth([], [], 0.5) == []
    kept = smooth([1, 1, 2], [1.0, math.nan, 2.0], 0.5)
    assert math.isnan(kept[1])
    assert kept[2] == pytest.approx((0.25 * 1 + 0.5 * 2) / 0.75)


def test_smoothing_reaches_over_iterations_not_over_log_lines():
    """What is logged half as often forgets twice as fast from line to line."""
    (_, often), (_, seldom) = smooth([10, 15], [1.0, 2.0], 0.5, 5.0), smooth([10, 20], [1.0, 2.0], 0.5, 5.0)
    assert often == pytest.approx((0.25 * 1 + 0.5 * 2) / 0.75)
    assert seldom == pytest.approx((0.125 * 1 + 0.75 * 2) / 0.875)


def test_text_has_the_size_asked_for_and_leaves_out_what_is_not_finite():
    text = draw_curves("x", {"a": ([0, 1, 2], [0.0, math.nan, 2.0])}, x_title="{} steps", width=40, height=4)
    lines = text.splitlines()
    assert len(lines) == 1 + 4 + 2
    assert max(map(len, lines)) <= 40
    assert (lines[1].split()[0], lines[4].split()[0], lines[-1].split()) == ("2", "0", ["0", "2", "steps"])
    assert lines[0] == "x: ● a   (1 of 3 values are not finite)"
    assert draw_curves("x", {"a": ([0], [math.nan])}, x_title="") == "x: no finite value"
    assert draw_curves("x", {"a": ([3], [1.0])}, x_title="").count("●") >= 2


def test_runs_are_rows_with_what_differs_in_their_configs(runs, capsys):
    assert compare.main(runs) == 0
    head, *rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in (head, *rows)]
    assert cells[0][:2] == ["run", "width"]
    assert [row[:2] for row in cells[1:3]] == [["a", "8"], ["b", "16"]]
    assert "work_dir" not in " ".join(cells[0])


def test_best_is_the_largest_or_the_smallest_by_the_name(tmp_path):
    runs = read_outlines([str(make_run(tmp_path / "a"))])
    found = compare_runs(runs, ["train/loss", "val/acc/top1", "val/fid"])
    (row,) = found.rows
    assert (row.best["train/loss"].values, row.best["train/loss"].steps) == ([0.02], [50])
    assert (row.best["val/acc/top1"].values, row.best["val/acc/top1"].steps) == ([0.975], [40])
    assert row.last["val/fid"].values == [3]
    assert "val/fid" not in row.best
    assert "config: no difference" in found.as_text()


def test_a_class_or_a_part_that_only_one_run_has_is_a_difference(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    save_config("from lazyengine.config import LazyCall as L\nmodel = L(dict)(width=8)\nextra = (1, 2)\n", b)
    columns = compare_runs(read_outlines([str(a), str(b)]), ["train/loss"]).columns()
    assert columns["model._target_"] == ["argparse.Namespace", "builtins.dict"]
    assert columns["model.parts[0].width"] == ["1", "-"]
    assert columns["extra"] == ["-", "(1, 2)"]


def test_a_curve_that_ends_in_nan_says_so_and_a_smoothed_constant_is_flat():
    steps = [*range(1, 20)]
    ended = draw_curves("x", {"": (steps, [1.0] * 5 + [math.nan] * 14)}, x_title="{}").splitlines()
    assert (ended[0], ended[-1].split()) == ("x   (14 of 19 values are not finite)", ["1", "5"])
    both = {"a": ([1, 2], [1.0, 2.0]), "b": ([1, 2], [math.inf, math.nan])}
    assert draw_curves("x", both, x_title="").splitlines()[0].endswith("○ b   (2 of 4 values are not finite)")
    flat = draw_curves("x", {"": (steps, smooth(steps, [3.0] * 19, 0.6))}, x_title="{}").splitlines()
    assert [line for line in flat if "●" in line] == [flat[-3]]
    assert "not finite" not in flat[0]


@pytest.mark.parametrize("more", [[], ["--json"], ["--output", "curves.png"]])
def test_a_run_without_records_has_nothing_to_draw(more, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").touch()
    assert plot.main([str(tmp_path / "metrics.jsonl"), *more]) == 2
    assert "metrics.jsonl: nothing is recorded there yet." in capsys.readouterr().err


@pytest.mark.parametrize("command", [plot, compare])
def test_what_is_no_run_is_named_with_what_is_there(command, runs, tmp_path, capsys):
    def message(*args: str) -> str:
        assert command.main(list(args)) == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return text

    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    if command is plot:
        assert f"{tmp_path} holds several runs; name them: {runs[0]} {runs[1]}" in message(str(tmp_path))
    assert "it holds nothing" in message(str(tmp_path / "empty"))
    assert "it holds notes.txt" in message(str(tmp_path / "other"))
    assert f"Did you mean {tmp_path / 'empty'}?" in message(str(tmp_path / "emty"))
    assert "There are: train/loss" in message(runs[0], "--keys", "nothing")


@pytest.mark.parametrize("command", [plot, compare])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "examples:" in capsys.readouterr().out
