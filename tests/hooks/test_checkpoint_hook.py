"""When checkpoints are saved, under which names, and which of them stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader
from lazyengine.errors import UsageError
from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.runner import ValLoop

from ..runner.toy import StopAt, ToyData, toy_runner


class Script(BaseMetric):
    """Gives the values of a list, one validation after the other."""

    def __init__(self, **values) -> None:
        super().__init__()
        self.values, self.num_calls = values, 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.num_calls += 1
        return {name: float(values[self.num_calls - 1]) for name, values in self.values.items()}


def run(folder, hook, metric=None, **options):
    """A run of 5 iterations an epoch; the val loop is left out without a metric."""
    hooks = {"checkpoint": hook, **options.pop("hooks", {})}
    runner = toy_runner(str(folder), hooks=hooks, **options)
    runner._parts["val_loop"] = None if metric is None else ValLoop(DataLoader(ToyData(), 4), metric)
    runner.train()
    return runner


def saved(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


@pytest.mark.parametrize("template", ["ckpt_{}.bin", "ckpt_{}", ".ckpt_{}.pth", "{}_{}.pth", "{}{x}.pth", "{}.pth.tmp"])
def test_a_name_that_is_not_found_again_is_refused(template):
    with pytest.raises(UsageError, match=r"filename_tmpl=.*\.pth"):
        CheckpointHook(filename_tmpl=template)


def test_a_name_of_best_checkpoints_is_refused():
    with pytest.raises(UsageError, match=r"filename_tmpl='best_loss_epoch_\{\}.pth': best checkpoints"):
        CheckpointHook(filename_tmpl="best_loss_epoch_{}.pth")


def test_two_hooks_that_save_under_the_same_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"checkpoint and more both save epoch_\{\}.pth in .*give one of them"):
        run(tmp_path, CheckpointHook(), hooks={"more": CheckpointHook(interval=2, max_keep_ckpts=1)})
    assert not saved(tmp_path)


@pytest.mark.parametrize(
    "more",
    [{"by_epoch": False, "interval": 4}, {"filename_tmpl": "other_{}.pth"}, {"interval": -1, "save_last": False}],
)
def test_two_hooks_that_save_under_other_names_go_together(tmp_path, more):
    run(tmp_path, CheckpointHook(max_keep_ckpts=1), hooks={"more": CheckpointHook(**more)})
    assert "epoch_3.pth" in saved(tmp_path)


@pytest.mark.parametrize("extension", ["pth", "pt", "ckpt"])
def test_other_names_are_resumed_kept_and_deleted(tmp_path, extension):
    def hook():
        return CheckpointHook(filename_tmpl=f"my {{}} run.{extension}", max_keep_ckpts=1)

    with pytest.raises(InterruptedError):
        run(tmp_path, hook(), hooks={"stop": StopAt(12)})
    assert [p.name for p in tmp_path.glob("my*")] == [f"my 2 run.{extension}"]
    assert run(tmp_path, hook(), resume=True).epoch == 3
    assert [p.name for p in tmp_path.glob("my*")] == [f"my 3 run.{extension}"]


@pytest.mark.seam(20, "epoch", "iteration", "val_interval", "no validation")
def test_the_defaults_follow_the_loop(tmp_path):
    run(tmp_path / "epochs", CheckpointHook())
    assert saved(tmp_path / "epochs") == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
    run(tmp_path / "val", CheckpointHook(), Script(error=[1] * 9), max_iters=10, val_interval=4)
    assert saved(tmp_path / "val") == ["iter_10.pth", "iter_4.pth", "iter_8.pth"]
    run(tmp_path / "none", CheckpointHook(), max_iters=1002)
    assert saved(tmp_path / "none") == ["iter_1000.pth", "iter_1002.pth"]
    run(tmp_path / "given", CheckpointHook(interval=3), max_iters=7)
    assert saved(tmp_path / "given") == ["iter_3.pth", "iter_6.pth", "iter_7.pth"]


@pytest.mark.seam(20, "passes", "iteration", "resume")
def test_epochs_in_an_iteration_loop_are_passes(tmp_path):
    run(tmp_path / "a", CheckpointHook(interval=1, by_epoch=True), max_iters=12)
    assert saved(tmp_path / "a") == ["epoch_1.pth", "epoch_2.pth", "iter_12.pth"]
    assert read_checkpoint(tmp_path / "a" / "epoch_2.pth")["meta"]["iter"] == 10
    run(tmp_path / "b", CheckpointHook(interval=2, by_epoch=True, max_keep_ckpts=1), max_iters=20)
    assert saved(tmp_path / "b") == ["epoch_4.pth"]
    with pytest.raises(InterruptedError):
        run(tmp_path / "c", CheckpointHook(by_epoch=True), max_iters=12, hooks={"stop": StopAt(8)})
    run(tmp_path / "c", CheckpointHook(by_epoch=True, max_keep_ckpts=1), max_iters=12, resume=True)
    assert saved(tmp_path / "c") == ["iter_12.pth"]


class WithoutLength:
    """The batches of a loader, as a stream has them."""

    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self):
        return iter(self.loader)


@pytest.mark.parametrize(("by_epoch", "says"), [(True, True), (None, False)])
def test_passes_that_nobody_knows_the_end_of_are_said(tmp_path, by_epoch, says):
    runner = toy_runner(str(tmp_path), max_iters=4, hooks={"checkpoint": CheckpointHook(by_epoch=by_epoch)})
    runner.train_loop.dataloader = WithoutLength(runner.train_loop.dataloader)
    runner.train()
    assert ("its interval saves nothing" in Path(runner.folder.log_file).read_text()) == says


def test_the_interval_counts_from_the_beginning_as_in_mmengine(tmp_path):
    run(tmp_path / "a", CheckpointHook(interval=2, save_begin=5, save_last=False), max_epochs=10)
    assert saved(tmp_path / "a") == ["epoch_5.pth", "epoch_7.pth", "epoch_9.pth"]
    run(tmp_path / "b", CheckpointHook(interval=4, save_begin=3, by_epoch=False, save_last=False), max_iters=12)
    assert saved(tmp_path / "b") == ["iter_11.pth", "iter_3.pth", "iter_7.pth"]


@pytest.mark.seam(3, "accumulation", "checkpoint", "epoch", "iteration")
@pytest.mark.seam(20, "epoch", "iteration")
@pytest.mark.parametrize("max_iters", [None, 15])
def test_one_file_at_a_step_while_gradients_accumulate(tmp_path, max_iters):
    hook = CheckpointHook(interval=1, by_epoch=False)
    run(tmp_path, hook, accumulative_counts=4, max_iters=max_iters)
    steps = [read_checkpoint(tmp_path / name)["meta"]["iter"] for name in saved(tmp_path)]
    assert sorted(steps) == [4, 8, 12, 15]
    assert saved(tmp_path) == ["iter_12.pth", "iter_15.pth", "iter_4.pth", "iter_8.pth"]


def test_one_file_at_the_end_of_an_epoch_that_completes_an_accumulation(tmp_path):
    """10 iterations an accumulation: what was due after the first epoch is saved with the second."""
    run(tmp_path, CheckpointHook(interval=1), accumulative_counts=10, max_epochs=4)
    assert saved(tmp_path) == ["epoch_2.pth", "epoch_4.pth"]


@pytest.mark.seam(3, "checkpoint", "resume")
def test_an_accumulation_is_still_waited_for_after_a_resume(tmp_path):
    """The best file of the first epoch is in mid-accumulation, with its regular checkpoint due at iteration 8."""

    def hook():
        return CheckpointHook(save_best="error", rule="less")

    metric = {"error": [1, 2, 3]}
    with pytest.raises(InterruptedError):
        run(tmp_path / "a", hook(), Script(**metric), accumulative_counts=4, hooks={"stop": StopAt(6)})
    assert saved(tmp_path / "a") == ["best_error_epoch_1.pth"]
    run(tmp_path / "a", hook(), Script(error=[2, 3]), accumulative_counts=4, resume=True)
    assert read_checkpoint(tmp_path / "a" / "epoch_1.pth")["meta"]["iter"] == 8


def test_the_best_of_several_metrics(tmp_path):
    hook = CheckpointHook(interval=-1, save_last=False, save_best=["acc", "error"])
    runner = run(tmp_path, hook, Script(acc=[1, 2, 2, 1], error=[3, 4, 2, 5]), max_epochs=4)
    assert saved(tmp_path) == ["best_acc_epoch_2.pth", "best_error_epoch_3.pth"]
    assert dict(runner.hooks["checkpoint"].summary()) == {
        "best acc": "2.0000 (best_acc_epoch_2.pth)",
        "best error": "2.0000 (best_error_epoch_3.pth)",
    }


@pytest.mark.seam(19, "not finite")
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_never_best(tmp_path, bad):
    hook = CheckpointHook(save_best="error", rule="greater")
    run(tmp_path, hook, Script(error=[bad, 1, bad]))
    assert [name for name in saved(tmp_path) if "best" in name] == ["best_error_epoch_2.pth"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_rule_that_is_not_known_stops_after_the_regular_checkpoint(tmp_path, is_async):
    hook = CheckpointHook(save_best="auto", async_save=is_async)
    with pytest.raises(ValueError, match="xyz"):
        run(tmp_path, hook, Script(xyz=[1, 2, 3]))
    assert saved(tmp_path) == ["epoch_1.pth"]
    hook = CheckpointHook(save_best="auto", async_save=is_async)
    with pytest.raises(ValueError, match="xyz"):
        run(tmp_path / "iters", hook, Script(xyz=[1, 2, 3]), max_iters=9, val_interval=4)
    assert saved(tmp_path / "iters") == ["iter_4.pth"]


@pytest.mark.parametrize("max_iters", [None, 15])
def test_a_rule_that_is_not_known_in_mid_accumulation_saves_first_too(tmp_path, max_iters):
    hook = CheckpointHook(interval=1, by_epoch=max_iters is None, save_best="auto")
    options = {"max_iters": max_iters, "val_interval": 1 if max_iters is None else 5}
    with pytest.raises(ValueError, match="xyz"):
        run(tmp_path, hook, Script(xyz=[1, 2, 3]), accumulative_counts=4, **options)
    steps = [read_checkpoint(tmp_path / name)["meta"]["iter"] for name in saved(tmp_path)]
    assert max(steps) == 5


def test_a_second_experiment_in_a_folder_deletes_only_its_own(tmp_path):
    run(tmp_path, CheckpointHook(save_best="error"), Script(error=[1, 2, 3]))
    shutil.copy(tmp_path / "epoch_2.pth", tmp_path / "epoch_9.pth")
    run(tmp_path, CheckpointHook(max_keep_ckpts=1, save_best="error"), Script(error=[3, 2]), max_epochs=2)
    assert saved(tmp_path) == ["best_error_epoch_2.pth", "epoch_2.pth", "epoch_9.pth"]  # the copy stays
    (start,) = (path.parent for path in tmp_path.glob("*/epoch_1.pth"))
    assert saved(start) == ["best_error_epoch_1.pth", *(f"epoch_{n}.pth" for n in (1, 2, 3))]


def test_resuming_one_experiment_into_the_folder_of_another(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, CheckpointHook(save_best="error"), Script(error=[3, 2, 1]), experiment_name="same")
    before = {name: saved(tmp_path / name) for name in "ab"}
    hook = CheckpointHook(max_keep_ckpts=1, save_best="error")
    options = {"max_epochs": 5, "resume": str(tmp_path / "a" / "epoch_3.pth"), "experiment_name": "same"}
    run(tmp_path / "b", hook, Script(error=[9, 0, 9]), **options)
    assert saved(tmp_path / "a") == before["a"]
    (start,) = (path.parent for path in (tmp_path / "b").glob("*/epoch_1.pth"))
    assert saved(start) == before["b"]


def test_deletions_that_a_kill_cut_off_are_done_by_the_next_start(tmp_path):
    class Dies(Hook):
        priority = "LOWEST"

        def after_train(self, runner):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, CheckpointHook(save_best="error"), Script(error=[3, 2, 1]), hooks={"dies": Dies()})
    run(tmp_path, CheckpointHook(max_keep_ckpts=1, save_best="error"), Script(error=[9]), resume=True)
    assert saved(tmp_path) == ["best_error_epoch_3.pth", "epoch_3.pth"]


def test_what_is_saved_when_training_stops_early(tmp_path):
    class Stops(Hook):
        def after_val_epoch(self, runner, metrics=None):
            runner.train_loop.stop_training = runner.epoch == 2

    run(tmp_path / "a", CheckpointHook(interval=2), Script(error=[1] * 9), max_epochs=9, hooks={"stops": Stops()})
    assert saved(tmp_path / "a") == ["epoch_2.pth"]
    run(tmp_path / "b", CheckpointHook(interval=3), Script(error=[1] * 9), max_epochs=9, hooks={"stops": Stops()})
    assert saved(tmp_path / "b") == ["epoch_2.pth"]


def test_published_files(tmp_path):
    hook = CheckpointHook(interval=2, save_best="error", published_keys=["meta", "state_dict"], max_keep_ckpts=1)
    run(tmp_path, hook, Script(error=[1, 2, 3]))
    (last,) = tmp_path.glob("epoch_3-*.pth")
    (best,) = tmp_path.glob("best_error_epoch_1-*.pth")
    assert set(read_checkpoint(last)) == set(read_checkpoint(best)) == {"meta", "state_dict"}
    with pytest.raises(KeyError, match="no \\['nothing'\\]"):
        run(tmp_path / "b", CheckpointHook(published_keys="nothing"))
