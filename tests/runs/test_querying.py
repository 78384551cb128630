"""SQL over run folders, with both engines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from lazyengine.cli import query as command
from lazyengine.runs import query, read_run
from lazyengine.runs.index import find_run_folders

from .test_comparing import make_run
from .test_reading import list_starts, record


@pytest.fixture(params=["duckdb", "sqlite"])
def engine(request) -> str:
    if request.param == "duckdb":
        pytest.importorskip("duckdb")
    return request.param


def test_metrics_are_what_the_reader_reads(root: Path, engine):
    """Also of resumed runs, and of forks, whose curve begins with the run that they branched off."""
    answer = query(root, "select run, name, step, value from metrics", engine=engine)
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for run, name, step, value in answer.rows:
        found.setdefault((run, name), []).append((step, value))
    runs = [read_run(path) for path, _ in find_run_folders(str(root))]
    assert found == {(run.name, key): [*zip(*curve)] for run in runs for key, curve in run.curves.items()}
    assert query(root, "select distinct epoch, mode from metrics", engine=engine).rows == [(1, "train")]


def test_runs_have_config_state_lineage_and_what_their_curves_come_to(root: Path, engine):
    make_run(root / "c", 0.9, optimizer__lr=0.5, optimizer__name="sgd", model__deep=True)
    sql = """
        select run, state, iterations, "optimizer.lr" * 2, "optimizer.name", "model.deep", "max val/accuracy/top1",
            "last val/accuracy/top1", "min train/loss"
        from runs where run = 'c'
    """
    (row,) = query(root, sql, engine=engine).rows
    assert row == ("c", "finished", 20, 1.0, "sgd", True, 0.9, 0.8, pytest.approx(0.1))
    (row,) = query(root, "select num_starts, parent, parent_iter from runs where run = 'fork'", engine=engine).rows
    assert row == (1, "a", 5)
    (row,) = query(root, 'select count(*), count("optimizer.lr") from runs', engine=engine).rows
    assert row == (4, 1)


def test_a_value_that_is_a_number_here_and_a_text_there_is_a_text(tmp_path, engine):
    for name, value in (("a", 0.5), ("b", "auto"), ("c", 1)):
        make_run(tmp_path / name, 0.5, model__width=value, model__Width=name)
    rows = query(tmp_path, 'select "model.width", "model.Width (2)" from runs order by run', engine=engine).rows
    assert rows == [("0.5", "a"), ("auto", "b"), ("1", "c")]


def test_events_are_starts_changes_and_ends(tmp_path, engine):
    change = {"path": "optimizer.lr", "was": "0.1", "is": "0.5", "effect": "in force", "from_iter": 12, "why": ""}
    record(tmp_path / "a" / "s1", range(1, 3), 1.0)
    starts = [
        {"folder": "s1", "ended": {"how": "stopped", "iter": 2, "reason": "SIGTERM"}, "time_utc": "2026"},
        {"folder": "s2", "from": {"run_id": "a", "path": "iter_2.pth", "iter": 2}, "changes": [change]},
    ]
    list_starts(tmp_path / "a", *starts)
    rows = query(tmp_path, "select start, event, iter, what, detail from events", engine=engine).rows
    assert rows == [
        (1, "start", 0, None, None),
        (1, "end", 2, "stopped", "SIGTERM"),
        (2, "resume", 2, "iter_2.pth", None),
        (2, "change", 12, "optimizer.lr", "0.1 -> 0.5: in force"),
    ]


def test_a_folder_without_runs_has_empty_views(tmp_path, engine):
    for view in ("runs", "metrics", "events"):
        assert query(tmp_path, f"select count(*) from {view}", engine=engine).rows == [(0,)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select iteration from runs", "Did you mean 'iterations'?"),
        ("select 1 from rums", "The views are runs, metrics and events."),
        ("selec", "'selec': "),
        ("delete from runs where 'selec' = ''", "delete changes nothing in a run"),
        ("DROP table runs -- selec", "DROP changes nothing in a run"),
        ("update runs set iterations = 1", "update changes nothing in a run"),
        ("-- select", "'-- select' answers nothing; write a statement such as 'select run, state from runs'."),
    ],
)
def test_a_wrong_statement_is_named(root: Path, engine, sql, message):
    with pytest.raises(ValueError, match=r"iteration|rums|selec") as caught:
        query(root, sql, engine=engine)
    assert message in str(caught.value)


def test_no_file_can_be_read_through_duckdb(root: Path, tmp_path):
    pytest.importorskip("duckdb")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"disabled|not permitted|Permission"):
        query(root, f"select * from read_csv('{tmp_path / 'secret.csv'}')", engine="duckdb")


def test_a_data_frame(root: Path):
    pytest.importorskip("pandas")
    frame = query(root, "select run, max(value) as most from metrics group by run order by run").as_frame()
    assert list(frame.columns) == ["run", "most"]
    assert frame.set_index("run")["most"].to_dict() == {"a": 2.0, "b": 1.0, "fork": 3.0}


def test_the_command(root: Path, capsys):
    sql = "select run, iterations from runs order by run"
    assert command.main([str(root), sql]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:2]] == [["run", "iterations"], ["a", "8"]]
    assert command.main([str(root), sql, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[2] == {"run": "fork", "iterations": 8}
    assert command.main([str(root), sql, "--csv"]) == 0
    assert [*csv.reader(io.StringIO(capsys.readouterr().out))][1] == ["a", "8"]
    assert command.main([str(root / "nothing"), sql]) == 2
    assert "is no folder" in capsys.readouterr().err
