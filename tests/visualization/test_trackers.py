"""Trackers: what their offline stores hold after a run and its resume, and that one that fails stops nothing."""

from __future__ import annotations

import struct
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyengine.config import LazyConfig
from lazyengine.hooks import Hook
from lazyengine.logging import read_metrics
from lazyengine.runs.reading import MEASURED, PLACE
from lazyengine.visualization import (
    LocalVisBackend,
    MLflowVisBackend,
    TrackioVisBackend,
    VisBackend,
    Visualizer,
    WandbVisBackend,
)
from lazyengine.visualization import trackers as module
from lazyengine.visualization.trackers import TrackerBackend

from ..runner.toy import StopAt, toy_runner

CONFIG = "from lazyengine.config import LazyCall as L\nmodel = L(dict)(width=8)\nlr = {lr}\n"
LOUD = pytest.mark.filterwarnings("ignore")  # other people's packages warn of each other


def mirror(backend: VisBackend, folder: Path) -> None:
    """A run that stops at step 40 and is resumed from 20, with another rate."""
    for number, (resumed, steps) in enumerate([(None, (10, 20, 30)), (20, (30, 40))]):
        visualizer = Visualizer(vis_backends=[backend])
        visualizer.run_id = "0123456789abcdef"
        (folder / f"start{number}").mkdir(parents=True)
        (folder / "run.json").touch()
        visualizer.set_save_dir(folder / f"start{number}", folder / "start0")  # as a runner does
        visualizer.start(resumed)
        config = folder / f"config{number}.py"
        config.write_text(CONFIG.format(lr=0.1 * (number + 1)))
        visualizer.add_config(LazyConfig.load(str(config)))
        for step in steps:
            visualizer.add_scalars({"loss": step + number}, step=step, mode="train", epoch=1)
            visualizer.add_scalars({"accuracy/top1": 0.5}, step=step, mode="val", epoch=1)
        visualizer.add_image("val/picture", np.full((4, 6, 1), 200, np.uint8), step=steps[-1])
        visualizer.close()


LOSSES = [(10, 10.0), (20, 20.0), (30, 30.0), (30, 31.0), (40, 41.0)]


def wandb_records(file: Path) -> list[Any]:
    """The records of an offline store: a log of LevelDB's form, in blocks of 32 kB, of W&B's messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, found, pending = file.read_bytes(), 7, [], b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:
            offset += 32768 - offset % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[offset : offset + 7])
        pending += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(pending))
            pending = b""
    return found


@LOUD
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    mirror(WandbVisBackend(mode="offline", timeout_s=100), tmp_path / "run")
    import_module("wandb").teardown()  # ends its process, which writes the last lines when a run has ended already
    stores = sorted((tmp_path / "run").glob("start*/wandb/offline-run-*/*.wandb"))
    assert [store.name for store in stores] == ["run-0123456789abcdef.wandb"] * 2
    records = [record for store in stores for record in wandb_records(store)]
    rows = [{i.nested_key[0] if i.nested_key else i.key: i.value_json for i in r.history.item} for r in records]
    losses = [(int(row["iteration"]), float(row["train/loss"])) for row in rows if "train/loss" in row]
    assert losses == LOSSES
    assert any("val/picture" in row for row in rows)
    configs = [i.value_json for r in records for i in r.config.update if (i.key or i.nested_key[0]) == "lr"]
    assert configs == ['"0.1"', '"0.2"']
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.display_name) for run in runs} == {("0123456789abcdef", "run")}


@LOUD
def test_mlflow_with_a_local_store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mirror(MLflowVisBackend("toys", store, timeout_s=100), tmp_path / "run")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("toys").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == LOSSES
    assert run.data.params["lr"] == "0.1"
    assert run.data.params["model.width"] == "8"
    assert run.data.tags["now.lr"] == "0.2"
    names = {file.path for file in client.list_artifacts(run.info.run_id, "images/val")}
    assert names == {"images/val/picture_30.png", "images/val/picture_40.png"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.py", "images"]


@LOUD
def test_trackio_with_a_local_store(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    if Path(str(SQLiteStorage.get_project_db_path("toys"))).parent != tmp_path / "store":
        pytest.skip("trackio was imported before, with another store")
    backend = TrackioVisBackend("toys", init={"auto_log_cpu": False, "auto_log_gpu": False}, timeout_s=100)
    mirror(backend, tmp_path / "run")
    assert SQLiteStorage.get_runs("toys") == ["start0-0123456789abcdef"]
    logs = SQLiteStorage.get_logs("toys", "start0-0123456789abcdef")
    losses = [(log["step"], log["train/loss"]) for log in logs if "train/loss" in log]
    assert sorted(losses) == LOSSES
    assert any("val/picture" in log for log in logs)
    assert SQLiteStorage.get_run_config("toys", "start0-0123456789abcdef")["model.width"] == "8"


# --------------------------------------------------------------------------------------------- a tracker that fails
class Fake(TrackerBackend):
    """A tracker of the test: it fails at what it is told, or waits there for its gate."""

    package = "json"

    def __init__(self, fails: str = "", error: type[BaseException] = ConnectionError, **options: Any) -> None:
        super().__init__(**options)
        self.fails, self.error, self.seen, self.gate = fails, error, [], threading.Event()
        self.begun: list[tuple[str, str]] = []

    def begin(self, save_dir, run_dir, resumed_step):
        self.fail("begin")
        self.begun.append((self.run_id, run_dir.name))
        return object()

    def end(self, run, failed):
        self.fail("end")
        self.seen.append("failed" if failed else "end")

    def fail(self, where: str) -> None:
        if self.fails == where:
            raise self.error("no server")
        if self.fails == f"hang in {where}":
            assert self.gate.wait(60), "the test did not open the gate"

    def add_scalars(self, scalars, step, mode, epoch, iter):
        def call(run) -> None:
            if step % 2:
                self.fail("call")
            self.seen.append(step)

        self.send(call)


@pytest.fixture
def errors(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(module, "log_error", found.append)
    return found


def show(backend: VisBackend, folder: Path, number: int = 4) -> None:
    visualizer = Visualizer(vis_backends=[backend], save_dir=folder)
    for step in range(1, number + 1):
        visualizer.add_scalars({"loss": 1.0}, step=step, mode="train")
    visualizer.close()


def test_calls_are_made_in_order_and_the_run_is_ended(tmp_path, errors):
    fake = Fake()
    show(fake, tmp_path)
    assert (fake.seen, errors) == ([1, 2, 3, 4, "end"], [])


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_a_tracker_that_cannot_begin_is_left_out(tmp_path, errors, error):
    fake = Fake("begin", error)
    show(fake, tmp_path)
    assert fake.seen == []
    assert errors == [f"Fake: json cannot begin ({error.__name__}: no server)"]


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_of_calls_that_fail_the_first_is_told_and_all_are_counted(tmp_path, errors, error):
    fake = Fake("call", error)
    show(fake, tmp_path, 5)
    assert fake.seen == [2, 4, "end"]
    assert errors == [f"Fake: json failed ({error.__name__}: no server)", "Fake: 3 calls of json failed in all"]


class Broken(Hook):
    """Fails in the third iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 2:
            raise KeyError("broken")


def test_a_run_that_fails_ends_as_failed(tmp_path):
    fake = Fake()
    runner = toy_runner(str(tmp_path), hooks={"broken": Broken()}, visualizer=Visualizer(vis_backends=[fake]))
    with pytest.raises(KeyError, match="broken"):
        runner.train()
    assert fake.seen[-1] == "failed"


def test_a_tracker_that_fails_at_its_end_is_told(tmp_path, errors):
    fake = Fake("end")
    show(fake, tmp_path)
    assert fake.seen == [1, 2, 3, 4]
    assert errors == ["Fake: json failed (ConnectionError: no server)"]


def test_a_tracker_that_hangs_is_left_behind(tmp_path, errors, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    fake = Fake("hang in call", timeout_s=60.0)
    visualizer = Visualizer(vis_backends=[fake], save_dir=tmp_path)
    for step in range(1, 21):
        visualizer.add_scalars({"loss": 1.0}, step=step, mode="train")
    fake.timeout_s = 0.2
    visualizer.close()
    assert errors[0] == "Fake: json is too slow, and loses points: 3 calls wait"
    assert errors[1] == "Fake: json is left behind: it has not taken everything within 0.2 s"
    assert len(errors) == 3
    assert fake.seen == []
    fake.gate.set()


def test_training_does_not_wait_for_one_that_hangs_where_it_begins_and_nothing_is_lost(tmp_path, errors):
    fake = Fake("hang in begin", timeout_s=0.0)
    visualizer = Visualizer(vis_backends=[fake], save_dir=tmp_path)
    for step in range(1, 5):
        visualizer.add_scalars({"loss": 1.0}, step=step, mode="train")
    assert (fake.experiment, fake.seen) == (None, [])
    assert errors == ["Fake: json has not begun within 0 s; what is shown waits for it"]
    fake.timeout_s = 60.0
    fake.gate.set()
    visualizer.close()
    assert fake.seen == [1, 2, 3, 4, "end"]


@pytest.mark.parametrize("kind", [WandbVisBackend, MLflowVisBackend, TrackioVisBackend])
def test_a_package_that_is_missing_is_named_with_its_extra(kind, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=rf"is not installed; pip install 'lazyengine\[{kind.package}\]' brings it"):
        kind()


def test_a_limit_below_nothing_is_refused():
    with pytest.raises(ValueError, match="timeout_s must be at least 0, got -1"):
        Fake(timeout_s=-1)


def test_training_is_the_same_beside_a_tracker_that_fails(tmp_path):
    records = []
    for name, backends in (("plain", []), ("mirrored", [Fake("call"), Fake("begin")])):
        visualizer = Visualizer(name, [LocalVisBackend(), *backends])
        toy_runner(str(tmp_path / name), visualizer=visualizer).train()
        found = read_metrics(tmp_path / name)
        kept = [{k: v for k, v in each.items() if k.rpartition("/")[2] not in MEASURED} for each in found]
        records.append([each for each in kept if each.keys() - PLACE])
    assert records[0] == records[1]
    assert len(records[0]) > 3


# --------------------------------------------------------------------------------------------------- an evaluation
def mirrored(folder: Path, **options: Any) -> tuple[Any, Fake]:
    fake = Fake()
    return toy_runner(str(folder), visualizer=Visualizer(vis_backends=[LocalVisBackend(), fake]), **options), fake


def test_an_evaluation_begins_no_run_of_a_tracker_and_says_so(tmp_path):
    toy_runner(str(tmp_path)).train()
    runner, fake = mirrored(tmp_path)
    runner.test(checkpoint="latest")
    assert (fake.begun, fake.seen) == ([], [])
    log = Path(runner.folder.log_file).read_text()
    assert f"an evaluation is not sent to Fake; its records are in {runner.log_dir}" in log
    assert [record["mode"] for record in read_metrics(runner.log_dir + "/metrics.jsonl")] == ["val"]


def test_an_evaluation_after_training_leaves_what_a_tracker_and_the_records_hold(tmp_path):
    runner, fake = mirrored(tmp_path)
    runner.train()
    begun, seen, records = list(fake.begun), list(fake.seen), read_metrics(tmp_path)
    runner.val(checkpoint=5)
    runner.test()
    assert (fake.begun, fake.seen) == (begun, seen)
    assert read_metrics(tmp_path) == records
    (said,) = tmp_path.glob("*/evaluation/start.json")
    assert [record["step"] for record in read_metrics(said.parent / "metrics.jsonl")] == [5, 15]


def test_training_that_goes_on_after_an_evaluation_joins_its_run_of_the_tracker(tmp_path):
    runner, fake = mirrored(tmp_path, hooks={"stop": StopAt(7)})
    with pytest.raises(InterruptedError):
        runner.train()
    assert fake.seen == [5, 5, "failed"]
    runner.val()
    runner.train()
    assert fake.begun == [(runner.folder.run_id, runner.timestamp)] * 2
    assert fake.seen[3:] == [10, 10, 15, 15, "end"]
    steps = [record["step"] for record in read_metrics(tmp_path) if record["mode"] == "val"]
    assert steps == [5, 10, 15]
