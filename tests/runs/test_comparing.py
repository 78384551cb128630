"""Many runs as a table: rows over seeds, columns that differ, conditions, and which of two is better."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyengine.cli import compare
from lazyengine.logging import MetricsWriter
from lazyengine.record import CodeRecord, save_code
from lazyengine.runs import compare_runs, judge, read_outlines
from lazyengine.runs.significance import student_tail

from .test_reading import list_starts

KEY = "val/accuracy/top1"


def make_run(folder: Path, result: float, **config: Any) -> Path:
    """A finished run with the values of a config by path."""
    metrics = MetricsWriter(folder / "20260131_120000" / "metrics.jsonl")
    for step, value in ((10, result), (20, result - 0.1)):
        metrics.write({"loss": 1 - value}, step=step)
        metrics.write({"accuracy/top1": value}, step=step, mode="val")
    metrics.close()
    values: dict[str, Any] = {"runner": {"$call": "lazyengine.runner:Runner", "$with": {"seed": 0}}}
    for path, value in config.items():
        place = values
        *parents, name = path.split("__")
        for parent in parents:
            place = place.setdefault(parent, {}) if parent != "runner" else values["runner"]["$with"]
        place[name] = value
    (folder / "config.json").write_text(json.dumps({"values": values}))
    ended = {"how": "finished", "iter": 20, "reason": ""}
    list_starts(folder, {"folder": "20260131_120000", "ended": ended}, run_id=folder.name)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for lr in (0.1, 0.01):
        for seed in range(3):
            make_run(tmp_path / f"lr{lr}_{seed}", 0.5 + lr + seed / 100, optimizer__lr=lr, runner__seed=seed)
    return tmp_path


def rows_of(capsys, *args: object) -> list[dict[str, str]]:
    assert compare.main([*map(str, args), "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_runs_that_differ_in_the_seed_alone_are_one_row(root, capsys):
    one, two = rows_of(capsys, root)
    assert [row["seeds"] for row in (one, two)] == ["3", "3"]
    assert (one["optimizer.lr"], two["optimizer.lr"]) == ("0.01", "0.1")
    assert float(two[f"{KEY} best"]) == pytest.approx(0.61)
    assert float(two[f"{KEY} best std"]) == pytest.approx(0.01)
    assert float(two[f"{KEY} last"]) == pytest.approx(0.51)
    each = rows_of(capsys, root, "--each")
    assert [(row["optimizer.lr"], row["runner.seed"]) for row in each] == [
        (lr, seed) for lr in ("0.1", "0.01") for seed in ("2", "1", "0")
    ]


def test_the_same_seed_once_more_is_no_other_seed(root, capsys):
    make_run(root / "again", 0.9, optimizer__lr=0.1, runner__seed=0)
    assert sorted(row["seeds"] for row in rows_of(capsys, root)) == ["1", "3", "3"]


@pytest.mark.parametrize(
    ("condition", "number"),
    [
        ("optimizer.lr > 5e-2", 3),
        ("lr<=0.01", 3),
        ("lr < .05", 3),
        ("lr = 1.e-1", 3),
        ("iterations >= 20.", 6),
        ("lr = 0.1 and runner.seed != 1", 2),
        ("top1 > 0.5", 2),
        ("state = finished", 6),
        ("state = failed", 0),
        ("run = lr0.1_2", 1),
        ("iterations >= 20", 6),
    ],
)
def test_conditions(root, condition, number, capsys):
    args = [str(root), "--where", condition, "--each", "--json"]
    assert compare.main(args) == 0
    out = capsys.readouterr().out
    assert len(json.loads(out)["rows"]) == number if number else "no run fits" in out


@pytest.mark.parametrize(
    ("condition", "fitting"),
    [("runner.seed = 0", ["a"]), ("runner.seed < 3", ["a"]), ("runner.seed != 0", ["b"]), ("seed=0", ["a"])],
)
def test_a_run_that_sets_no_seed_has_seed_0(tmp_path, condition, fitting, capsys):
    values = {"runner": {"$call": "lazyengine.runner:Runner", "$with": {"device": "cpu"}}}
    (make_run(tmp_path / "a", 0.5) / "config.json").write_text(json.dumps({"values": values}))
    make_run(tmp_path / "b", 0.5, runner__seed=3)
    rows = rows_of(capsys, tmp_path, "--each")
    assert [row["runner.seed"] for row in rows] == ["0", "3"]
    assert [row["run"] for row in rows_of(capsys, tmp_path, "--each", "--where", condition)] == fitting


@pytest.mark.parametrize("condition", ["optimizer.eps = 1e-8", "optimizer.eps < 1", "optimizer.eps != 1"])
def test_runs_that_a_condition_leaves_out_since_they_have_no_such_value_are_named(root, condition, capsys):
    make_run(root / "sets", 0.9, optimizer__eps=1e-8)
    assert compare.main([str(root), "--where", condition, "--csv"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "left out, no value of optimizer.eps (defaults are not recorded): lr0.01_0, " in captured.err
    assert "sets" not in captured.err
    assert compare.main([str(root), "--where", "optimizer.lr > 0 and optimizer.lr < 1"]) == 0
    assert "lr0.01_0" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("optimizer.name = Addam", "no run has optimizer.name 'Addam'. Did you mean 'Adam'? There are: SGD, Adam."),
        ("lr = 0.2 and state = failed", "no run has optimizer.lr 0.2. There are: 0.1, 0.01.\nno run has state"),
        ("lr = 0.01 and optimizer.name = Adam", "no run fits the conditions\n"),
    ],
)
def test_where_no_run_fits_what_there_is_is_named(root, condition, message, capsys):
    make_run(root / "adam", 0.9, optimizer__lr=0.1, optimizer__name="Adam")
    make_run(root / "sgd", 0.9, optimizer__lr=0.1, optimizer__name="SGD")
    make_run(root / "momentum", 0.9, optimizer__lr=0.1, optimizer__name="SGD")
    assert compare.main([str(root), "--where", condition]) == 0
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--where", "optimzer.lr > 1"], "no run has 'optimzer.lr'. Did you mean 'optimizer.lr'?"),
        (["--where", "optimizer.lr"], "'optimizer.lr' is no condition; expected name, sign and value"),
        (["--where", "lr>>3"], "'lr>>3' is no condition; expected name, sign and value"),
        (["--where", "lr > high"], "'lr > high': optimizer.lr is a number, such as"),
        (["--where", "state = finishd"], "no run has state 'finishd'. Did you mean 'finished'? There are: finished."),
        (["--where", "state != runing and lr > 0"], "'runing'. Did you mean 'running'? There are: finished."),
        (["--where", "lr = 0.1", "--where", "state=done"], "no run has state 'done'. There are: finished."),
        (["--sort", "nothing"], "no column is called 'nothing'"),
        (["--keys", "top5"], "no curve is called 'top5'"),
    ],
)
def test_what_is_not_there_is_named(root, args, message, capsys):
    assert compare.main([str(root), *args]) == 2
    assert message in capsys.readouterr().err


def test_a_change_in_mid_run_stands_in_its_row_and_makes_another_one(root, capsys):
    change = {"path": "optimizer.lr", "was": "0.1", "is": "0.5", "effect": "in force", "from_iter": 12, "why": ""}
    list_starts(root / "lr0.1_1", {"folder": "20260131_120000", "changes": [change]})
    rows = rows_of(capsys, root)
    assert sorted((row["optimizer.lr"], row["seeds"]) for row in rows) == [
        ("0.01", "3"),
        ("0.1", "2"),
        ("0.1 -> 0.5 @ 12", "1"),
    ]


def test_other_code_is_another_row(root):
    list_starts(root / "lr0.1_1", {"folder": "20260131_120000", "code": "aaaa"})
    list_starts(root / "lr0.1_2", {"folder": "20260131_120000", "code": "bbbb"})
    found = compare_runs(read_outlines([root]), [KEY])
    assert sorted(row.config["code"] for row in found.rows) == ["-", "-", "aaaa", "bbbb"]


@pytest.mark.parametrize(
    ("other", "is_other"),
    [
        ({"net.py": b"# a comment\ndef f(x):\n    return x\n"}, False),
        ({"net.py": b"def f(x):\n    return x\n", "more.py": b"y = 2\n"}, False),
        ({"net.py": b"def f(x):\n    return x + 1\n"}, True),
    ],
    ids=["comment", "one file more", "function"],
)
def test_code_that_is_the_same_by_functions_is_no_other_row(tmp_path, other, is_other):
    for seed, files in enumerate([{"net.py": b"def f(x):\n    return x\n"}, other]):
        code = CodeRecord(files=files, configs=[])
        folder = make_run(tmp_path / f"run{seed}", 0.5, runner__seed=seed)
        list_starts(folder, {"folder": "20260131_120000", "code": code.hash})
        (folder / "code").mkdir()
        save_code(code, folder / "code")
    found = compare_runs(read_outlines([tmp_path]), [KEY])
    assert [len(row.names) for row in found.rows] == ([1, 1] if is_other else [2])
    assert ("code" in found.rows[0].config) == is_other


def test_sorting_puts_the_best_first(root, capsys):
    make_run(root / "middle", 0.55, optimizer__lr=1.0)
    assert [row["optimizer.lr"] for row in rows_of(capsys, root)] == ["0.1", "1.0", "0.01"]
    assert [row["optimizer.lr"] for row in rows_of(capsys, root, "--sort", "loss")] == ["0.1", "1.0", "0.01"]
    assert [row["optimizer.lr"] for row in rows_of(capsys, root, "--sort", "lr")] == ["0.01", "0.1", "1.0"]


def test_a_narrow_terminal_gets_what_fits_and_names_the_rest(root):
    text = compare_runs(read_outlines([root]), ["train/loss", KEY]).as_text(width=60)
    lines = text.splitlines()
    assert max(map(len, lines[:3])) <= 60
    assert lines[0].split()[:3] == ["run", "seeds", "lr"]
    assert lines[3].startswith("not shown: ")


def test_latex_is_escaped(root):
    text = compare_runs(read_outlines([root]), [KEY]).as_latex()
    assert text.splitlines()[0] == r"\begin{tabular}{lrrrrr}"
    assert r"lr0.1\_0 (+2) & 3 & 0.1 & 0.61 $\pm$ 0.01 & 0.51 $\pm$ 0.01 & 20 \\" in text


def test_of_two_rows_the_better_one_is_named_with_the_test(root, capsys):
    assert compare.main([str(root / f"lr{lr}_{seed}") for lr in (0.01, 0.1) for seed in range(3)]) == 0
    out = capsys.readouterr().out
    assert f"{KEY} best: lr0.1_0 (+2) is better than lr0.01_0 (+2) (Welch's t-test, one-sided: t = 11" in out
    assert compare.main([str(root / f"lr{lr}_{0}") for lr in (0.01, 0.1)]) == 0
    assert "which one is better: unknown (no test without two seeds" in capsys.readouterr().out


def test_of_two_rows_a_curve_with_a_value_that_is_not_finite_is_named(root, capsys):
    metrics = MetricsWriter(root / "lr0.1_1" / "20260131_120000" / "metrics.jsonl")
    metrics.write({KEY.removeprefix("val/"): float("nan")}, step=100, mode="val")
    metrics.close()
    assert compare.main([str(root)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{KEY} last")]
    assert lines == [f"{KEY} last: unknown which one is better (a value is not finite; 3 and 3 seeds)"]


def test_a_thousand_runs_need_no_torch(root):
    """Its import takes longer than all the rest."""
    program = (
        "import sys; from lazyengine.cli.main import main; "
        f"assert main(['compare', {str(root)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run ")


@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, 0.0, 0.05), (2.0, 0.8, 1.0)])
def test_two_thousand_comparisons_over_five_seeds(gap, low, high):
    """At most 5 % of those of a sample with itself say "better", and at least 80 % of those with a gap of two sigma."""
    rng = np.random.default_rng(0)
    words = [judge([*rng.normal(0, 1, 5)], [*rng.normal(gap, 1, 5)], True).word for _ in range(2000)]
    assert low <= words.count("better") / 2000 <= high
    worse = [judge([*rng.normal(gap, 1, 5)], [*rng.normal(0, 1, 5)], True).word for _ in range(2000)]
    assert low <= worse.count("worse") / 2000 <= high


@pytest.mark.parametrize(
    ("base", "other", "word"),
    [
        ([1.0, 1.0], [2.0, 2.0], "better"),
        ([1.0, 1.0], [0.5, 0.5], "worse"),
        ([1.0, 1.0], [1.0, 1.0], "within noise"),
        ([1.0], [2.0, 3.0], "unknown"),
        ([1.0, float("nan")], [2.0, 3.0], "unknown"),
    ],
)
def test_samples_without_a_spread_or_too_small_for_a_test(base, other, word):
    assert judge(base, other, True).word == word


@pytest.mark.parametrize(
    ("t", "freedom", "tail"), [(2.306004, 8, 0.025), (12.7062, 1, 0.025), (1.3722, 10, 0.1), (0, 3, 0.5)]
)
def test_the_tail_of_students_distribution(t, freedom, tail):
    """Values of the printed tables."""
    assert student_tail(t, freedom) == pytest.approx(tail, rel=1e-4)
