import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyengine.logging import MetricsWriter, read_metrics


def lines(path):
    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_one_schema_for_all_modes(tmp_path):
    writer = MetricsWriter(tmp_path / "a" / "metrics.jsonl")
    writer.write({"loss": 0.5, "lr": 0.1}, step=10, epoch=1, iter=10)
    writer.write({"acc": np.float32(0.5), "epoch": 1, "iter": 10}, step=10, mode="val")
    writer.write({"acc": torch.tensor(1)}, step=20, mode="test")
    writer.flush()
    assert lines(tmp_path / "a" / "metrics.jsonl") == [
        {"step": 10, "epoch": 1, "iter": 10, "mode": "train", "loss": 0.5, "lr": 0.1},
        {"step": 10, "epoch": 1, "iter": 10, "mode": "val", "acc": 0.5},
        {"step": 20, "epoch": None, "iter": 20, "mode": "test", "acc": 1},
    ]
    assert [list(record)[:4] for record in lines(writer.path)] == [["step", "epoch", "iter", "mode"]] * 3


def test_records_are_written_once_an_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lazyengine.fileio.queued.time.monotonic", lambda: now[0])
    writer = MetricsWriter(tmp_path / "metrics.jsonl", interval_s=1.0)
    written = []
    for step in range(8):
        writer.write({}, step=step)
        written.append(len(lines(writer.path)))
        now[0] += 0.3
    assert written == [1, 1, 1, 1, 5, 5, 5, 5]
    writer.close()
    assert len(lines(writer.path)) == 8


def test_what_json_has_not(tmp_path):
    values = {"nan": math.nan, "inf": math.inf, "list": [1.0, -math.inf], "dict": {"x": math.nan}, "array": np.eye(2)}
    writer = MetricsWriter(tmp_path / "metrics.jsonl", interval_s=0)
    writer.write(values, step=1)
    (record,) = lines(writer.path)
    assert (record["nan"], record["inf"], record["list"]) == ("NaN", "Infinity", [1.0, "-Infinity"])
    assert record["array"] == [[1, 0], [0, 1]]
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["nan"])
    assert record["inf"] == math.inf


def test_errors(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="a value cannot be called 'mode'"):
        writer.write({"mode": 1}, step=1)
    with pytest.raises(TypeError, match=r"<object object.*has no JSON form"):
        writer.write({"a": {"b": [object()]}}, step=1)
    with pytest.raises(ValueError, match="interval_s must be at least 0, got -1"):
        MetricsWriter(tmp_path / "x", interval_s=-1)
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl in .*give the folder of a run"):
        read_metrics(tmp_path / "empty")
    assert not writer.path.exists()


def test_records_are_written_at_exit(tmp_path):
    code = """
        import os, sys
        from lazyengine.logging import MetricsWriter
        writer = MetricsWriter(sys.argv[1])
        for step in range(5):
            writer.write({}, step=step)
        1 / 0
    """
    path = tmp_path / "metrics.jsonl"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(path)]
    subprocess.run(command, cwd=root, stderr=subprocess.DEVNULL, check=False)
    assert [record["step"] for record in lines(path)] == list(range(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_nothing(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step in range(3):
        writer.write({}, step=step)
    child = os.fork()
    if child == 0:
        writer._finish()
        os._exit(0)
    os.waitpid(child, 0)
    writer.close()
    assert [record["step"] for record in lines(writer.path)] == [0, 1, 2]


def test_records_are_kept_while_the_file_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "run"
    blocked.write_text("a file where the folder should be")
    writer = MetricsWriter(blocked / "metrics.jsonl", interval_s=0)
    for step in (1, 2):
        writer.write({"loss": 0.5}, step=step)
    assert capsys.readouterr().out.count("its records are kept until it can, training goes on") == 1
    blocked.unlink()
    writer.write({"loss": 0.5}, step=3)
    assert [record["step"] for record in read_metrics(blocked)] == [1, 2, 3]


def test_a_disk_that_is_full_within_a_record_leaves_no_part_of_it(tmp_path):
    """A limit on the size of files stands for the disk."""
    script = f"""
        import resource, signal
        from lazyengine.logging import MetricsWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        writer = MetricsWriter({str(tmp_path / "metrics.jsonl")!r}, interval_s=0)
        writer.write({{"loss": 1.0}}, step=1)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        for step in (2, 3):
            writer.write({{"loss": 1.0}}, step=step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer.write({{"loss": 1.0}}, step=4)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_cut_line_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "mode": "train"}\n{"step": 2, "mo')
    MetricsWriter(path, interval_s=0).write({}, step=3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]


def run_start(folder, resumed, stop, every=10, val_every=20):
    """Write what a start that is resumed at one step and killed after another writes."""
    writer = MetricsWriter(folder / "metrics.jsonl")
    writer.start(resumed)
    for step in range((resumed or 0) + 1, stop + 1):
        if step % every == 0:
            writer.write({"from": resumed or 0}, step=step)
        if step % val_every == 0:
            writer.write({"from": resumed or 0}, step=step, mode="val")
    writer.close()


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_run_resumed_several_times_has_one_curve(tmp_path_factory, starts):
    tmp_path = tmp_path_factory.mktemp("run")
    resumed, stop = None, 0
    for i, (length, lost, every) in enumerate(starts):
        if i:
            resumed = max(stop - lost, 0)
        stop = (resumed or 0) + length
        run_start(tmp_path / f"2026010{i}", resumed, stop, every)
    seen = {}
    for record in read_metrics(tmp_path) if list(tmp_path.rglob("*.jsonl")) else []:
        key = (record["mode"], record["step"])
        assert key not in seen
        assert record["mode"] in ("train", "val")
        seen[key] = record
    last_steps = [record["step"] for record in seen.values() if record["mode"] == "train"]
    assert last_steps == sorted(last_steps)
    assert all(record["from"] <= record["step"] for record in seen.values())


def test_what_a_resumed_start_does_anew_replaces_the_old(tmp_path):
    run_start(tmp_path / "1", None, 57)
    run_start(tmp_path / "2", 35, 52, every=5)
    records = [record for record in read_metrics(tmp_path) if record["mode"] == "train"]
    expected = [(10, 0), (20, 0), (30, 0), (40, 35), (45, 35), (50, 35)]
    assert [(record["step"], record["from"]) for record in records] == expected
    vals = [(record["step"], record["from"]) for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert vals == [(20, 0), (40, 35)]


def test_a_start_from_the_beginning_replaces_everything(tmp_path):
    run_start(tmp_path / "1", None, 57)
    run_start(tmp_path / "2", None, 25)
    assert [(record["step"], record["mode"]) for record in read_metrics(tmp_path)] == [
        (10, "train"), (20, "train"), (20, "val"),
    ]  # fmt: skip


def test_an_evaluation_alone_replaces_no_curve(tmp_path):
    run_start(tmp_path / "1", None, 30)
    writer = MetricsWriter(tmp_path / "2" / "metrics.jsonl")
    writer.write({"from": "again"}, step=20, mode="val")
    writer.close()
    assert [(record["mode"], record["step"], record["from"]) for record in read_metrics(tmp_path)] == [
        ("train", 10, 0), ("train", 20, 0), ("train", 30, 0), ("val", 20, "again"),
    ]  # fmt: skip


def test_starts_in_one_file(tmp_path):
    run_start(tmp_path, None, 57)
    run_start(tmp_path, 30, 50)
    expected = [(10, 0), (20, 0), (30, 0), (40, 30), (50, 30)]
    for source in (tmp_path, tmp_path / "metrics.jsonl"):
        records = [record for record in read_metrics(source) if record["mode"] == "train"]
        assert [(record["step"], record["from"]) for record in records] == expected


def test_lines_that_are_no_records_are_left_out(tmp_path):
    good = b'{"step": 1, "mode": "train", "loss": 0.5}\n'
    bad = [b"\xff\xfe\x00\n", b'{"step": null, "mode": "train"}\n', b"[" * 100_000 + b"\n"]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*bad, good]))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]
