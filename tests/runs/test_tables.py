"""A paper's table: what its cells say, which are refused and why, and how what is missing is made."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from lazyengine.cli import table as command
from lazyengine.record import CodeRecord, save_code
from lazyengine.runs import Cell, Table, commands_for, fill

from .test_comparing import make_run
from .test_reading import list_starts
from .toy import make_project

KEY = "val/accuracy/top1"
WIDTHS, RATES, SEEDS = (8, 16, 32), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), range(5)


def make_trained_run(
    root: Path,
    width: int,
    rate: float,
    seed: int,
    *,
    name: str = "",
    code: str = "c0de",
    data: str = "d0",
    **more: object,
) -> Path:
    """A finished run of the table, with code and data."""
    config = {"model__width": width, "optimizer__lr": rate, "runner__seed": seed, **more}
    folder = make_run(root / (name or f"w{width}_r{rate}_{seed}"), 0.5 + width / 100 + seed / 1000, **config)
    finish(folder, code=code)
    fingerprints = {"train": {"length": 9, "hash": "t"}, "val": {"length": 5, "hash": data}}
    (folder / "20260131_120000" / "env.json").write_text(json.dumps({"data": fingerprints}))
    return folder


def finish(folder: Path, how: str | None = "finished", code: str = "c0de", **more: object) -> None:
    ended = None if how is None else {"how": how, "iter": 20, "reason": ""}
    list_starts(folder, {"folder": "20260131_120000", "ended": ended, "code": code, **more}, run_id=folder.name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ninety runs: three widths, six rates, five seeds."""
    for width in WIDTHS:
        for rate in RATES:
            for seed in SEEDS:
                make_trained_run(tmp_path / "runs", width, rate, seed)
    return tmp_path / "runs"


def cell(width: int, rate: float) -> Cell:
    return Cell(f"model.width = {width} and optimizer.lr = {rate}", f"{KEY} best", seeds=SEEDS)


def make_table(root: Path, **options: object) -> Table:
    cells = {f"width {width}": {f"lr {rate}": cell(width, rate) for rate in RATES} for width in WIDTHS}
    return Table(str(root), cells, **{"varies": ["model.width", "optimizer.lr"], **options})  # pyright: ignore


def test_twelve_planted_errors_are_refused_by_name_and_no_other_cell(root):
    decay = {"path": "optimizer.momentum", "was": "0.9", "is": "0.5", "effect": "in force", "from_iter": 12, "why": ""}
    make_trained_run(root, 8, 0.1, 1, model__depth=3)
    finish(root / "w8_r0.2_2", changes=[decay])
    make_trained_run(root, 8, 0.3, 3, code="beef")
    make_trained_run(root, 8, 0.4, 4, data="d1")
    finish(root / "w8_r0.5_0", "stopped")
    finish(root / "w8_r0.6_1", None)
    shutil.rmtree(root / "w16_r0.1_2")
    make_trained_run(root, 16, 0.2, 3, name="once_more")
    for seed in SEEDS:
        make_trained_run(root, 16, 0.3, seed, train_loop__batch_size=64)
        make_trained_run(root, 16, 0.4, seed, code="beef")
        make_trained_run(root, 16, 0.5, seed, data="d1")
    metrics = root / "w16_r0.6_4" / "20260131_120000" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("accuracy/top1", "accuracy/top5"))
    found = fill(make_table(root))
    reasons = {cell.name: " | ".join(cell.refusals) for cell in found.refused}
    expected = {
        "width 8/lr 0.1": "its runs differ in model.depth: 3 in w8_r0.1_1; - in w8_r0.1_0, w8_r0.1_2",
        "width 8/lr 0.2": "its runs differ in optimizer.momentum: 0.9 -> 0.5 @ 12 in w8_r0.2_2",
        "width 8/lr 0.3": "its runs differ in code: beef in w8_r0.3_3; c0de in ",
        "width 8/lr 0.4": "its runs differ in the data of the evaluation: val: 5 samples, d1 in w8_r0.4_4; ",
        "width 8/lr 0.5": "w8_r0.5_0 is not finished but stopped",
        "width 8/lr 0.6": "w8_r0.6_1 is not finished but killed",
        "width 16/lr 0.1": "no finished run with seed 2",
        "width 16/lr 0.2": "once_more, w16_r0.2_3 have the same seed 3",
        "width 16/lr 0.3": "train_loop.batch_size is 64, and - in most cells",
        "width 16/lr 0.4": "the code is beef, and c0de in most cells",
        "width 16/lr 0.5": "the data of the evaluation is val: 5 samples, d1, and val: 5 samples, d0 in most cells",
        "width 16/lr 0.6": "w16_r0.6_4 has no curve 'val/accuracy/top1'. Did you mean 'val/accuracy/top5'?",
    }
    assert reasons.keys() == expected.keys()
    assert not {name: reasons[name] for name, text in expected.items() if text not in reasons[name]}
    assert all(found.cells[name].value is None for name in expected)


@pytest.mark.parametrize("changes", [{}, {"runner__seed": 7}, {"val_loop__limit": 3}])
def test_a_folder_that_only_evaluated_is_no_run_of_a_cell(root, changes):
    """`lazyengine test` of another config beside the runs refused the cell of the runs."""
    evaluated = make_trained_run(root, 8, 0.1, 1, name="evaluated", **changes)
    finish(evaluated, kind="evaluate")
    assert fill(make_table(root)).refused == []


def test_a_sound_table_in_every_form(root):
    found = fill(make_table(root, caption="A 90 % table", digits=3))
    assert not found.refused
    lines = found.as_text().splitlines()
    assert lines[1].split()[:5] == ["width", "8", "0.582", "±", "0.002"]
    latex = found.as_latex().splitlines()
    assert any(line.startswith(r"width 8 & 0.582 $\pm$ 0.002 & 0.582 $\pm$ 0.002 & ") for line in latex)
    assert r"\caption{A 90 \% table}" in latex
    assert "% width 8/lr 0.1: w8_r0.1_0 w8_r0.1_1 w8_r0.1_2 w8_r0.1_3 w8_r0.1_4" in latex
    first = next(csv.DictReader(io.StringIO(found.as_csv())))
    assert (first["row"], first["column"], first["num_runs"], first["refused"]) == ("width 8", "lr 0.1", "5", "")
    assert float(first["mean"]) == pytest.approx(0.582)
    assert first["runs"].split()[0] == str(root / "w8_r0.1_0")
    assert '<td title="w8_r0.1_0 w8_r0.1_1 w8_r0.1_2 w8_r0.1_3 w8_r0.1_4">0.582 ± 0.002</td>' in found.as_html()


def test_what_is_declared_may_differ(root):
    for seed in SEEDS:
        make_trained_run(root, 8, 0.1, seed, model__depth=3, code="beef", data="d1")
    assert not fill(make_table(root, varies=["model.width", "optimizer.lr", "model.depth", "code", "data"])).refused
    (refused,) = fill(make_table(root)).refused
    assert len(refused.refusals) == 3


def test_a_comment_and_what_only_one_run_imported_are_no_other_code(root):
    plain = {"net.py": b"def f(x):\n    return x\n", "config.py": b"lr = 1\n"}
    versions = [
        plain,
        {**plain, "net.py": b"# a comment\ndef f(x):\n    return x\n"},
        {**plain, "more.py": b"y = 2\n", "config.py": b"lr = 2\n"},
        {**plain, "net.py": b"def f(x):\n    return x + 1\n"},
    ]
    for seed, files in zip(SEEDS, versions):
        code = CodeRecord(files=files, configs=["config.py"])
        folder = make_trained_run(root, 8, 0.1, seed, code=code.hash)
        (folder / "code").mkdir(exist_ok=True)
        save_code(code, folder / "code")
    shutil.rmtree(root / "w8_r0.1_4")
    options = {"varies": ["model.width", "optimizer.lr", "code"]}
    table = make_table(root, **options)
    three = Cell(table.cells["width 8"]["lr 0.1"].where, KEY, seeds=[0, 1, 2])
    assert not fill(Table(str(root), {"a": {"b": three}})).refused
    four = Cell(three.where, KEY, seeds=[0, 1, 2, 3])
    (refused,) = fill(Table(str(root), {"a": {"b": four}})).refused
    assert re.match(r"its runs differ in code: \w+ in w8_r0.1_3; ", refused.refusals[0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("val/accuracy/top1 best", None),
        ("top1 last", None),
        ("val/fid best", "has no curve 'val/fid'"),
    ],
)
def test_which_value(root, value, reason):
    found = fill(Table(str(root), {"a": {"b": Cell("lr = 0.1 and width = 8", value, seeds=[0])}})).cells["a/b"]
    if reason is None:
        assert found.value is not None
        assert found.value.values == pytest.approx([0.58 if value.endswith("best") else 0.48])
    else:
        assert reason in found.refusals[0]


def test_a_condition_of_an_unknown_option_refuses_the_cell(root):
    (refused,) = fill(Table(str(root), {"a": {"b": Cell("optimizr.lr = 0.1", KEY)}})).refused
    assert "no run has 'optimizr.lr'. Did you mean 'optimizer.lr'?" in refused.refusals[0]


def test_what_is_missing_is_trained_or_goes_on(root):
    shutil.rmtree(root / "w8_r0.1_2")
    finish(root / "w8_r0.1_4", "stopped")
    found = fill(make_table(root, config="config.py"))
    new, resumed = commands_for(found, "width 8/lr 0.1")
    assert new == [
        *("config.py", "model.width=8", "optimizer.lr=0.1", "runner.seed=2"),
        f"runner.work_dir={root}/width_8_lr_0.1_2",
    ]
    assert resumed[-2:] == [f"runner.work_dir={root}/w8_r0.1_4", "--resume"]
    assert commands_for(found, "width 8/lr 0.2") == []
    with pytest.raises(KeyError, match=r"no cell is called 'width 8/lr'. Did you mean 'width 8/lr 0.\d'"):
        commands_for(found, "width 8/lr")
    with pytest.raises(ValueError, match="nothing says how its runs are made"):
        commands_for(fill(make_table(root)), "width 8/lr 0.1")
    odd = Table(str(root), {"a": {"b": Cell("lr > 7", KEY)}}, config="config.py")
    with pytest.raises(ValueError, match="'lr > 7' names no value"):
        commands_for(fill(odd), "a/b")


TABLE = """\
from lazyengine.runs import Cell, Table

where = "model.width = 4"
table = Table("runs", {"toy": {"error": Cell(where, "val/error best", seeds=range(2))}}, config="toy/config.py")
"""


def test_the_command_trains_what_a_cell_lacks(tmp_path, monkeypatch, capfd):
    make_project(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "table.py").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    assert command.main(["table.py"]) == 1
    assert "toy/error: no finished run with seed 0, 1" in capfd.readouterr().out
    assert command.main(["table.py", "--redo", "toy/error"]) == 0
    assert re.search(r"toy  \d\.\d{4} ± \d\.\d{4}$", capfd.readouterr().out, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()) == [
        "toy_error_0",
        "toy_error_1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no file"),
        ("x = 1", "defines no `table`"),
        ("from lazyengine.runs import Table\ntable = Table('nothing', {})", "Table.root='nothing' is no folder"),
        ("from lazyengine.runs import Table\ntable = Table('.', {'a': {'b': 1}})", "a/b is 1; expected a Cell"),
        (
            "from lazyengine.runs import Cell, Table\ntable = Table('.', {'a': {'b': Cell('', '', seeds=[1, 1])}})",
            "expected one or more seeds, each once",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, monkeypatch, text, message, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "table.py").write_text(text)
    assert command.main(["table.py"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
