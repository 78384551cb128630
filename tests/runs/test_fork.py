"""A run is branched at any iteration: as if it had had the changes from there on, computed once for all branches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lazyengine.checkpoint import summary_of
from lazyengine.cli import fork as command
from lazyengine.runs import compare_runs, fork, from_branch_point, prepare_fork, read_outlines, read_run, split_name
from lazyengine.runs.verifying import checkpoints_of, hash_of_state

from ..record.project import write
from .toy import make_project
from .training import start

KEPT = "runner.hooks.checkpoint.max_keep_ckpts=100"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fork")
    start(make_project(folder / "home"), folder / "run", KEPT)
    return folder / "run"


def last_state(folder: Path) -> str:
    return hash_of_state(checkpoints_of([folder])[0][0])


def test_a_fork_in_the_middle_of_an_epoch_is_computed_once_and_ends_as_the_run_did(run, tmp_path):
    path = prepare_fork(read_run(run), 7)
    assert Path(path) == run / "prefix" / "iter_7.pth"
    summary, written = summary_of(path), Path(path).stat().st_mtime_ns
    assert (summary.iter, summary.run_id) == (7, read_run(run).starts[0].run_id)
    start(Path(f"{run}@7"), tmp_path / "new", program=_PROGRAM)
    assert json.loads((tmp_path / "new" / "run.json").read_text())["starts"][0]["changes"] == []
    assert Path(path).stat().st_mtime_ns == written
    assert last_state(tmp_path / "new") == last_state(run)
    record = json.loads((tmp_path / "new" / "run.json").read_text())
    (only,) = record["starts"]
    assert only["run_id"] != summary.run_id
    assert (only["from"]["run_id"], only["from"]["iter"]) == (summary.run_id, 7)
    forked = read_run(tmp_path / "new")
    assert [each["step"] for each in forked.records if each["mode"] == "train"] == [*range(8, 16)]
    assert forked.branch == (run, 7)
    steps, values = from_branch_point(forked).curves["train/loss"]
    assert steps == [*range(7, 16)]
    assert values == read_run(run).curves["train/loss"][1][6:]
    assert compare_runs(read_outlines([run, tmp_path / "new"]), []).columns()["forked from"] == ["-", "run @ 7"]


_PROGRAM = """\
    import sys
    from lazyengine.cli.fork import main
    run, new, *overrides = sys.argv[1:]
    sys.exit(main([run, "--work-dir", new, *overrides]))
"""


def test_changes_are_recorded_as_those_of_a_resume(run, tmp_path):
    start(Path(f"{run}@10"), tmp_path / "new", "optimizer.weight_decay=0.5", program=_PROGRAM)
    (change,) = json.loads((tmp_path / "new" / "run.json").read_text())["starts"][0]["changes"]
    assert (change["path"], change["is"], change["effect"]) == ("optimizer.weight_decay", "0.5", "in force")
    assert not (run / "prefix" / "iter_10.pth").exists()  # a checkpoint stands there


def test_what_makes_no_sense_is_refused(run, tmp_path, capsys):
    assert split_name("runs/a@700") == ("runs/a", 700)
    assert split_name("runs/a") == ("runs/a", None)
    for args, message in (
        ([f"{run}@x", "--work-dir", "new"], "expected RUN@ITER with a number of iterations"),
        ([f"{run}@7"], "name its folder by --work-dir"),
        ([f"{run}@99", "--work-dir", str(tmp_path / "new")], "has the iterations 0 to 14"),
        ([f"{run}@0", "--work-dir", str(tmp_path / "new")], "expected 1 or more"),
        ([f"{run}@7", "--work-dir", str(tmp_path)], "is there already"),
    ):
        assert command.main(args) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="is there already"):
        fork(run, 7, tmp_path)


def test_the_end_is_computed_where_no_checkpoint_was_kept(run, tmp_path):
    kept = {iteration: hash_of_state(path) for path, iteration in checkpoints_of([run])}
    run = shutil.copytree(run, tmp_path / "run")
    for path, iteration in checkpoints_of([run]):
        if iteration >= 10:
            Path(path).unlink()
    for iteration in (10, 15):  # the end of a pass, and of the run
        path = prepare_fork(read_run(run), iteration)
        assert summary_of(path).iter == iteration
        assert hash_of_state(path) == kept[iteration]


@pytest.mark.parametrize("iteration", [4, 5, 8])
def test_between_accumulated_batches_there_is_no_fork(tmp_path, iteration):
    start(make_project(tmp_path / "home"), tmp_path / "run", "runner.optim_wrapper.accumulative_counts=3")
    run = read_run(tmp_path / "run")
    with pytest.raises(RuntimeError, match=f"iteration {iteration}: 3 batches are accumulated.*take a multiple"):
        prepare_fork(run, iteration)


@pytest.mark.suite
@pytest.mark.timeout(1500)
def test_eight_cooldowns_of_one_run_are_the_runs_that_had_those_schedules(tmp_path):
    """They compute at most 45 % of the iterations of eight separate runs."""
    config = make_project(tmp_path / "home")
    schedule = [f"runner.param_schedulers[0].{value}" for value in ("begin=10", "end=15", "start_factor=1.0")]
    start(config, tmp_path / "base", KEPT, *schedule, "train_loop.max_epochs=2")
    num_iterations = {"forked": 10, "separate": 0}
    for number in range(8):
        cooldown = f"+runner.param_schedulers[0].end_factor={number / 8}"
        forked, separate = tmp_path / f"fork{number}", tmp_path / f"separate{number}"
        start(Path(f"{tmp_path / 'base'}@10"), forked, cooldown, "train_loop.max_epochs=3", program=_PROGRAM)
        start(config, separate, KEPT, *schedule, cooldown)
        assert last_state(forked) == last_state(separate)
        for name, folder in (("forked", forked), ("separate", separate)):
            num_iterations[name] += sum(each["mode"] == "train" for each in read_run(folder).records)
    assert num_iterations["forked"] <= 0.45 * num_iterations["separate"]


LOOPS = """
    import torch
    from lazyengine.hooks import Hook
    from lazyengine.runner import BaseTrainLoop

    class Walk(BaseTrainLoop):
        max_epochs = None

        def __init__(self, dataloader, max_iters=15):
            super().__init__(dataloader, val_interval=4)
            self.max_iters, self.epoch_length = max_iters, len(self.dataloader)
            self.place = torch.zeros(())

        def run(self, runner):
            self.begin(runner)
            while self.position.iter < self.max_iters:
                for batch in self.batches_of_pass(runner):
                    runner.seed_model_stream(self.position.iter, "own")
                    self.place = self.place + torch.rand(())
                    batch["x"] = batch["x"] + self.place
                    self.position.val_due = self.is_val_due(self.position.iter + 1, self.max_iters)
                    self.run_iter(runner, self.position.iter, batch)
                    self.validate_if_due(runner)
                    runner.stop_if_asked()
                self.position.end_epoch()
                self.position.settle()
            self.finish(runner)

        def state_dict(self):
            return {**super().state_dict(), "place": self.place}

        def load_state_dict(self, state):
            super().load_state_dict(state)
            self.place = state["place"]

    class Mover(Hook):
        def before_train_epoch(self, runner):
            if not runner.is_resuming_epoch:
                with torch.no_grad():
                    next(runner.model.parameters()).add_(0.01)
"""
CHANGES = """
    from lazyengine.config import LazyCall as L
    from .config import *
    from .loops import Mover, Walk
    train_loop = L(Walk)(dataloader=train_loop.dataloader)
    runner.train_loop = train_loop
"""


@pytest.mark.parametrize(
    ("config", "iteration"),
    [
        (CHANGES, 7),  # a loop of one's own, in the middle of a pass
        (CHANGES, 8),  # before it stands a validation
        (CHANGES.partition("train_loop =")[0] + "runner.hooks['mover'] = L(Mover)()\n", 5),  # as an epoch begins
    ],
)
def test_a_state_is_computed_where_a_signal_would_have_stopped_the_run(tmp_path, config, iteration):
    make_project(tmp_path / "home")
    write(tmp_path / "home" / "toy", {"loops.py": LOOPS, "other.py": config})
    start(tmp_path / "home" / "toy" / "other.py", tmp_path / "run")
    for path in (tmp_path / "run").glob("epoch_1.pth"):
        path.unlink()
    start(Path(f"{tmp_path / 'run'}@{iteration}"), tmp_path / "new", program=_PROGRAM)
    assert last_state(tmp_path / "new") == last_state(tmp_path / "run")
