"""Runs below a root, through the index: it answers what the folders hold, whatever happened to it or to them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyengine.cli import compare
from lazyengine.logging import MetricsWriter, read_metrics
from lazyengine.record import PRUNED_FILE
from lazyengine.runs import read_outlines, read_run, status_of
from lazyengine.runs.columns import Part, append, join, pack, parts_in, unpack
from lazyengine.runs.index import INDEX_FILE, Index, find_run_folders

from .test_reading import list_starts, record

Curves = dict[str, tuple[list[float], list[float]]]


def curves_in(parts: list[Part]) -> Curves:
    return {c.name: (list(c.steps), list(map(float, c.values))) for c in join(parts) if c.label != "epoch"}


def curves_of(records: list[dict[str, object]]) -> Curves:
    """The same of records, one by one."""
    found: Curves = {}
    for line in records:
        for name, value in line.items():
            if name not in ("step", "epoch", "mode") and type(value) in (int, float):
                mode, step = str(line["mode"]), float(str(line["step"]))
                key = name if name.startswith(f"{mode}/") else f"{mode}/{name}"
                steps, values = found.setdefault(key, ([], []))
                steps.append(int(step))
                values.append(float(value))
    return found


def by_index(root: Path) -> dict[str, Curves]:
    """The curves of all runs as the index has them."""
    index = Index(root)
    found = {}
    for outline in index.read():
        curves = index.curves(outline)
        found[outline.path.name] = {
            curve.name: (list(curve.steps), list(curve.values)) for curve in curves if curve.label != "epoch"
        }
    index.close()
    return found


def by_reader(root: Path) -> dict[str, Curves]:
    """The same as the engine's own reader has them."""
    return {os.path.basename(path): dict(read_run(path).curves) for path, _ in find_run_folders(str(root))}


VALUES = st.one_of(
    st.floats(allow_nan=False), st.integers(-(2**70), 2**70), st.sampled_from(["NaN", "Infinity", "text", True, None])
)
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["train", "val", "resume"]),
        st.integers(0, 6),
        st.dictionaries(st.sampled_from(["loss", "val/acc", "lr"]), VALUES),
    ),
    max_size=12,
)


def as_bytes(records: list[tuple[str, int, dict[str, object]]]) -> bytes:
    lines = [{"step": step, "epoch": 1, "mode": mode, **({} if mode == "resume" else v)} for mode, step, v in records]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine that does much else
@given(st.lists(RECORDS, max_size=3), st.integers(0, 100))
def test_columns_say_what_the_reader_says(tmp_path_factory, files, cut):
    """However the files are divided by resumes, and wherever the reading was interrupted."""
    folder = tmp_path_factory.mktemp("files")
    paths, parts = [], []
    for number, records in enumerate(files):
        data = as_bytes(records)
        paths.append(folder / f"{number}.jsonl")
        paths[-1].write_bytes(data)
        place = data.find(b"\n", len(data) * cut // 100) + 1
        read: list[Part] = []
        for piece in (data[:place], data[place:]):
            append(read, unpack(pack(parts_in(piece))))
        parts += read
    expected = curves_of(read_metrics(paths)) if paths else {}
    assert repr(sorted(curves_in(parts).items())) == repr(sorted(expected.items()))  # of a NaN too


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2, "epoch": 1, "iter": 9-, "mode": "train", "loss": 0.5}',
        '{"step": 02, "epoch": 1, "iter": 2, "mode": "train", "loss": 0.5}',
        '{"step": 2, "epoch": 1, "iter": 2, "mode": "train", "loss": 0.5.5}',
        'x{"step": 2, "epoch": 1, "iter": 2, "mode": "train", "loss": 0.5}',
        '{"step": 2, "epoch": 1, "iter": 2, "mode": "train", "loss": 0.5} {"step": 3}',
        '{"step": 2, "epoch": 1, "iter": 2, "mode": "train", "loss": "NaN"}',
        '{"step": 2, "epoch": 1, "iter": 2, "mode": "train", "loss": 1e400}',
        '{"step": 2, "epoch": null, "iter": 2, "mode": "train", "loss": 1}',
        '{"step": 1, "epoch": null, "iter": 1, "mode": "resume"}',
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_that_is_not_like_the_others_counts_as_for_the_reader(tmp_path, line, place):
    lines = [json.dumps({"step": n, "epoch": 1, "iter": n, "mode": "train", "loss": 1 / n}) for n in (1, 2, 3)]
    lines[place:place] = [line]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    assert repr(curves_in(parts_in((tmp_path / "metrics.jsonl").read_bytes()))) == repr(
        curves_of([{k: v for k, v in r.items() if k != "iter"} for r in read_metrics(tmp_path)])
    )


def test_resumed_and_forked_runs_are_one_curve(root):
    found = by_index(root)
    assert found["a"]["train/loss"] == ([*range(1, 9)], [1.0] * 3 + [2.0] * 5)
    assert found["fork"]["train/loss"] == ([*range(1, 9)], [1.0] * 3 + [2.0] * 2 + [3.0] * 3)
    assert found == by_reader(root) == by_index(root)


def test_a_fork_whose_parent_is_gone_has_its_own_records(root):
    by_index(root)
    shutil.rmtree(root / "a")
    assert by_index(root)["fork"]["train/loss"][0] == [6, 7, 8]
    assert "a" not in by_index(root)


def test_what_is_written_meanwhile_is_read_from_where_it_ended(root):
    metrics = root / "a" / "20260131_130000" / "metrics.jsonl"
    by_index(root)
    for step in range(9, 60):  # more often than pieces are kept
        with open(metrics, "a") as file:
            file.write(json.dumps({"step": step, "mode": "train", "loss": step / 3}) + "\n")
        found = by_index(root)
        assert found["a"]["train/loss"][0][-1] == step
    assert found == by_reader(root)
    assert (found["fork"]["train/loss"][0][-1], len(found["fork"]["train/loss"][0])) == (8, 8)


def test_a_line_that_is_cut_is_read_once_it_is_whole(root):
    metrics = root / "a" / "20260131_130000" / "metrics.jsonl"
    line = json.dumps({"step": 9, "mode": "train", "loss": 7.0})
    for piece in (line[:20], line[20:], "\n", line[:10], "\n", line.replace("9", "10", 1) + "\n"):
        with open(metrics, "a") as file:
            file.write(piece)
        assert by_index(root) == by_reader(root)
    assert by_index(root)["a"]["train/loss"][0][-2:] == [9, 10]


@pytest.mark.parametrize("text", ["", '{"step": 1, "mode": "train", "loss": 9.0}\n' * 40])
def test_a_file_that_was_written_anew_is_read_anew(root, text):
    by_index(root)
    (root / "deep" / "b" / "20260131_120000" / "metrics.jsonl").write_text(text)
    assert by_index(root) == by_reader(root)


def test_a_resume_a_new_config_and_a_new_run_are_seen(root):
    by_index(root)
    (root / "a" / "config.json").write_text('{"values": {"x": 1}}')
    record(root / "new" / "20260131_120000", range(1, 3), 1.0)
    list_starts(root / "new", {"folder": "20260131_120000"})
    outlines = {outline.path.name: outline for outline in read_outlines([root])}
    assert outlines["a"].config == {"x": "1"}
    assert outlines["new"].iterations == 2
    assert by_index(root) == by_reader(root)


@pytest.mark.parametrize("harm", ["deleted", "text", "cut", "bytes", "rows", "version"])
def test_a_damaged_index_is_never_believed(root, harm):
    expected, file = by_index(root), root / INDEX_FILE
    data = bytearray(file.read_bytes())
    if harm == "deleted":
        file.unlink()
    elif harm == "text":
        file.write_text("no database at all, but a text that is long enough to be one" * 50)
    elif harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "bytes":
        for place in range(3000, len(data), 97):
            data[place] ^= 0x55
        file.write_bytes(data)
    else:
        change = "pragma user_version = 99" if harm == "version" else "update runs set outline = zeroblob(100)"
        database = sqlite3.connect(file)
        database.execute(change)
        database.commit()
        database.close()
    assert by_index(root) == expected
    assert by_index(root) == expected


def test_a_root_in_which_nothing_can_be_written(root, monkeypatch):
    connect = sqlite3.connect

    def refuse(path, **options):
        if path != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, **options)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert by_index(root) == by_reader(root)
    assert not (root / INDEX_FILE).exists()


def test_many_new_runs_are_read_by_several_processes(tmp_path, monkeypatch):
    for number in range(230):
        metrics = MetricsWriter(tmp_path / f"run{number}" / "20260131_120000" / "metrics.jsonl")
        metrics.write({"loss": number / 3}, step=1)
        metrics.close()
        list_starts(tmp_path / f"run{number}", {"folder": "20260131_120000"})
    monkeypatch.delitem(__import__("sys").modules, "torch")  # as in the command, which has not imported it
    assert by_index(tmp_path) == by_reader(tmp_path)


@pytest.mark.parametrize(("iteration", "state"), [(3, "pruned"), (5, "finished")])
def test_a_trial_that_was_pruned_has_not_finished_unless_it_went_on(tmp_path, iteration, state):
    run = tmp_path / "run"
    record(run / "20260131_120000", range(1, 6), 1.0)
    list_starts(run, {"folder": "20260131_120000", "ended": {"how": "finished", "iter": iteration, "reason": ""}})
    (run / PRUNED_FILE).parent.mkdir()
    (run / PRUNED_FILE).write_text('{"iter": 3, "value": 0.5}')
    assert [outline.state for outline in read_outlines([tmp_path])] == [state]
    assert status_of(run).state == state


@pytest.mark.parametrize(("file", "content"), [("run.json", "{"), ("config.json", "{"), ("config.json", "[1]")])
def test_a_damaged_run_is_named_and_the_others_are_read(root, file, content, capsys):
    whole = (root / "a" / file).read_text() if (root / "a" / file).exists() else None
    (root / "a" / file).write_text(content)
    outlines = {outline.path.name: outline for outline in read_outlines([root])}
    assert "is damaged" in outlines["a"].mistake
    assert (outlines["a"].state, outlines["b"].iterations) == ("unknown", 5)
    with pytest.raises(ValueError, match=f"a/{file} is damaged"):  # one that was named
        read_outlines([root / "a"])
    assert compare.main([str(root)]) == 0
    assert f"a/{file} is damaged" in capsys.readouterr().err
    (root / "a" / file).unlink() if whole is None else (root / "a" / file).write_text(whole)
    assert not any(outline.mistake for outline in read_outlines([root]))


def test_a_file_that_holds_no_records_is_no_run(root):
    (file,) = (root / "deep" / "b").rglob("metrics.jsonl")
    assert read_outlines([file])[0].iterations == 5
    (root / "deep" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"notes\.txt is no file of records; name a run folder"):
        read_outlines([root / "deep" / "notes.txt"])
