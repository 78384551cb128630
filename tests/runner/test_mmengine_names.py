"""What hooks and scripts written for mmengine's Runner ask it."""

from __future__ import annotations

import os

import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, LoggerHook, ParamSchedulerHook
from lazyengine.optim import ConstantLR, OptimWrapper
from lazyengine.runner import Runner

from .toy import toy_runner


class Seen(Hook):
    """Notes at which iterations it was called."""

    def __init__(self, note="") -> None:
        self.note = note
        self.calls: list[str] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.calls.append(f"{runner.iter}{self.note}")


def test_a_runner_that_did_not_begin_has_a_logger_a_hub_and_a_folder(tmp_path):
    runner = toy_runner(str(tmp_path))
    runner.logger.info("before training")
    runner.message_hub.update_info("mine", 1)
    folder, stamp = runner.log_dir, runner.timestamp
    assert os.path.basename(folder) == stamp
    runner.train()
    assert (runner.log_dir, runner.message_hub.get_info("mine")) == (folder, 1)
    assert [entry.name for entry in os.scandir(tmp_path) if entry.is_dir() and entry.name != "code"] == [stamp]
    with open(os.path.join(folder, f"{stamp}.log"), encoding="utf-8") as log:
        assert "before training" in log.read()


def test_what_is_asked_about_the_run(tmp_path):
    runner = toy_runner(str(tmp_path))
    assert (runner.rank, runner.world_size, runner.distributed) == (0, 1, False)
    assert runner.model_name == type(runner.model).__name__
    assert runner.val_interval == runner.train_loop.val_interval
    assert runner.val_begin == runner.train_loop.val_begin == 1
    assert runner.val_evaluator.dataset_meta == {"name": "toy"}
    assert runner.val_evaluator is runner.val_loop.evaluator
    assert runner.test_evaluator is runner.val_evaluator
    assert "after_train_iter" in runner.get_hooks_info()


def test_hooks_are_registered_before_training_and_then_no_more(tmp_path):
    runner = toy_runner(str(tmp_path))
    early, late = Seen("early"), Seen("late")
    runner.register_hook(late, priority="LOWEST")
    runner.register_hook(early, priority=5)
    assert list(runner.hooks)[-1] is late
    assert runner.hooks["Seen"] is late
    assert runner.hooks["Seen_2"] is early

    class Adds(Hook):
        def before_train(self, runner):
            with pytest.raises(UsageError, match="register_hook: training is at work"):
                runner.register_hook(Seen())

    runner.register_hook(Adds())
    runner.train()
    assert len(early.calls) == len(late.calls) == runner.max_iters
    with pytest.raises(TypeError, match="expected a Hook, got str"):
        toy_runner(str(tmp_path)).register_hook("LoggerHook")  # type: ignore[arg-type]


def test_every_hook_takes_a_priority():
    assert EMAHook(priority=49).priority == 49
    assert CheckpointHook(interval=1, priority="HIGH").priority == "HIGH"
    assert LoggerHook(priority=3).priority == 3
    assert Seen("x", priority="LOW").priority == "LOW"
    assert Seen("x").priority == Hook.priority
    with pytest.raises(ValueError, match="accepted are HIGHEST"):
        Seen(priority="lowish")
    with pytest.raises(TypeError, match="unexpected keyword"):
        Seen(prio=3)

    class Own(Hook):
        def __init__(self, priority=3):
            self.priority = priority + 1

    assert Own(priority=7).priority == 8


def test_schedulers_that_a_hook_gives_the_runner_are_stepped(tmp_path):
    class Gives(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                optimizer = runner.optim_wrapper.optimizer
                given = ConstantLR(optimizer, factor=0.5, begin=0, end=2, by_epoch=False)
                runner.param_schedulers = [given]

    runner = toy_runner(str(tmp_path), hooks={"gives": Gives(), "param_scheduler": ParamSchedulerHook()})
    runner.train()
    assert runner.param_schedulers[0].last_step >= 1


def test_checkpoints_are_named_in_the_hub(tmp_path):
    out = tmp_path / "out"
    hook = CheckpointHook(interval=1, by_epoch=True, save_best="error", max_keep_ckpts=2, out_dir=str(out))
    runner = toy_runner(str(tmp_path / "run"), hooks={"checkpoint": hook, "param_scheduler": ParamSchedulerHook()})
    runner.train()
    hub, epochs = runner.message_hub, runner.max_epochs
    assert hub.get_info("last_ckpt") == str(out / "run" / f"epoch_{epochs}.pth")
    assert hub.get_info("keep_ckpt_ids") == [epochs - 1, epochs]
    assert os.path.isfile(hub.get_info("best_ckpt"))
    assert hub.get_info("best_score") == hook.best.scores["error"]


def test_each_of_several_best_checkpoints_has_a_name_in_the_hub(tmp_path):
    hook = CheckpointHook(save_best=["error", "val_loss"], rule=["less", "greater"])

    class Adds(Hook):
        priority = "HIGH"

        def after_val_epoch(self, runner, metrics=None):
            metrics["val_loss"] = float(runner.epoch)

    runner = toy_runner(str(tmp_path), hooks={"checkpoint": hook, "adds": Adds()})
    runner.train()
    hub = runner.message_hub
    for name in ("error", "val_loss"):
        assert os.path.basename(hub.get_info(f"best_ckpt_{name}")).startswith(f"best_{name}_")
        assert hub.get_info(f"best_score_{name}") == hook.best.scores[name]
    assert "best_ckpt" not in hub.runtime_info


@pytest.mark.parametrize("action", ["train", "val", "test"])
def test_the_visualizer_knows_the_dataset(tmp_path, action):
    seen = []

    class Looks(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(runner.visualizer.dataset_meta)

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(runner.visualizer.dataset_meta)

        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(runner.visualizer.dataset_meta)

    runner = toy_runner(str(tmp_path), hooks={"looks": Looks()})
    getattr(runner, action)()
    assert seen
    assert all(meta == {"name": "toy"} for meta in seen)


def test_published_files_lie_beside_their_checkpoints(tmp_path):
    hook = CheckpointHook(published_keys=["meta", "state_dict"], out_dir=str(tmp_path / "out"))
    runner = toy_runner(str(tmp_path / "run"), hooks={"checkpoint": hook, "param_scheduler": ParamSchedulerHook()})
    runner.train()
    names = sorted(path.name for path in (tmp_path / "out" / "run").glob("epoch_*.pth"))
    assert any("-" in name for name in names)


def test_weights_are_loaded_at_once(tmp_path):
    trained = toy_runner(str(tmp_path / "a"))
    trained.train()
    other = toy_runner(str(tmp_path / "b"))
    meta = other.load_checkpoint(str(tmp_path / "a" / f"epoch_{trained.max_epochs}.pth"), strict=True)
    assert meta["epoch"] == trained.max_epochs
    assert other.val() == trained.val()


def test_weights_of_a_resume_are_there_before_training(tmp_path):
    trained = toy_runner(str(tmp_path / "a"))
    trained.train()
    again = toy_runner(str(tmp_path / "a"), max_epochs=trained.max_epochs + 1, resume=True)
    again.load_or_resume()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    again.load_or_resume()  # once
    again.train()
    whole = toy_runner(str(tmp_path / "b"), max_epochs=trained.max_epochs + 1)
    whole.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    other = toy_runner(str(tmp_path / "c"), load_from=str(tmp_path / "a" / f"epoch_{trained.max_epochs}.pth"))
    other.load_or_resume()
    assert other.val() == trained.val()


@pytest.mark.parametrize(("enable", "factor"), [(True, 2.0), (False, 1.0), (None, 1.0)])
def test_auto_scale_lr_as_mmengine_spells_it(tmp_path, enable, factor):
    rates = []
    for given in (None, {"base_batch_size": 2} | ({} if enable is None else {"enable": enable})):
        parts = toy_runner(str(tmp_path))
        wrapper = OptimWrapper(torch.optim.SGD(parts.model.parameters(), lr=0.01), accumulative_counts=2)
        runner = Runner(
            parts.model, train_loop=parts.train_loop, optim_wrapper=wrapper, auto_scale_lr=given, work_dir=str(tmp_path)
        )
        runner.train()
        rates.append(wrapper.optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(factor * rates[0])
    with pytest.raises(ValueError, match="expected a number, or enable and base_batch_size"):
        toy_runner(str(tmp_path), auto_scale_lr={"base": 2})
