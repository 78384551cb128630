"""A runner built by hand: what a run does, leaves behind, and repeats."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch

from lazyengine.checkpoint import CheckpointError, mark_latest_checkpoint, read_checkpoint, save_checkpoint
from lazyengine.dataset import DataLoader
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, LoadFrom, Runner

from .toy import StopAt, ToyData, ToyModel, toy_runner


class SaveAfterValidation(Hook):
    """Saves after the first validation, as the best checkpoint is saved."""

    priority = "LOWEST"

    def after_val_epoch(self, runner, metrics=None):
        runner.save_checkpoint("first.pth", is_latest=False)


def weights_of(runner: Runner) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_run_leaves_the_documented_folder(tmp_path):
    runner = toy_runner(str(tmp_path), experiment_name="toy")
    model = runner.train()
    assert model is runner.model
    names = set(os.listdir(tmp_path))
    assert {"last_checkpoint", "epoch_1.pth", "epoch_2.pth", "epoch_3.pth", runner.timestamp} <= names
    inside = set(os.listdir(runner.log_dir))
    assert {f"{runner.timestamp}.log", "metrics.jsonl", "env.json"} <= inside
    env = json.loads((tmp_path / runner.timestamp / "env.json").read_text())
    assert env["torch"] == torch.__version__
    checkpoint = torch.load(tmp_path / "epoch_3.pth", weights_only=True)
    assert {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers", "hooks"} <= set(checkpoint)
    assert (checkpoint["meta"]["epoch"], checkpoint["meta"]["iter"]) == (3, 15)
    assert not any(key.startswith("module.") for key in checkpoint["state_dict"])


def test_the_same_experiment_twice_is_the_same_to_the_bit(tmp_path):
    first, second = (toy_runner(str(tmp_path / name)) for name in "ab")
    assert_same(_train(first), _train(second))
    other_seed = toy_runner(str(tmp_path / "c"), seed=1)
    other_seed.train()
    assert not torch.equal(first.model.net[0].weight, other_seed.model.net[0].weight)


def test_validation_does_not_change_training(tmp_path):
    assert_same(
        _train(toy_runner(str(tmp_path / "a"))),
        _train(toy_runner(str(tmp_path / "b"), val_interval=0)),
    )


def _train(runner: Runner) -> dict[str, torch.Tensor]:
    runner.train()
    return weights_of(runner)


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 13, 15])
def test_resume_at_any_iteration_repeats_the_uninterrupted_run(tmp_path, stop):
    whole = toy_runner(str(tmp_path / "whole"))
    expected = _train(whole)
    hooks = {"checkpoint": CheckpointHook(interval=1, by_epoch=False)}
    cut = toy_runner(str(tmp_path / "cut"), hooks={**hooks, "stop": StopAt(stop)})
    with pytest.raises(InterruptedError):
        cut.train()
    resumed = toy_runner(
        str(tmp_path / "cut"), hooks={"checkpoint": CheckpointHook(interval=1, by_epoch=False)}, resume=True
    )
    assert_same(_train(resumed), expected)
    assert cut.model.batches + resumed.model.batches == whole.model.batches
    assert whole.optim_wrapper.state_dict()["param_groups"] == resumed.optim_wrapper.state_dict()["param_groups"]
    for key in ("train/loss", "val/error", "train/lr"):
        assert (resumed.message_hub.get_scalar(key).data[0] == whole.message_hub.get_scalar(key).data[0]).all()


@pytest.mark.parametrize("stop", [1, 5, 7, 10])
def test_iteration_based_resume_is_exact(tmp_path, stop):
    whole = toy_runner(str(tmp_path / "whole"), max_iters=12, val_interval=4)
    expected = _train(whole)
    hooks = {"checkpoint": CheckpointHook(interval=1, by_epoch=False), "stop": StopAt(stop)}
    cut = toy_runner(str(tmp_path / "cut"), max_iters=12, val_interval=4, hooks=hooks)
    with pytest.raises(InterruptedError):
        cut.train()
    resumed = toy_runner(
        str(tmp_path / "cut"),
        max_iters=12,
        val_interval=4,
        hooks={"checkpoint": CheckpointHook(interval=1, by_epoch=False)},
        resume="auto",
    )
    assert_same(_train(resumed), expected)
    assert cut.model.batches + resumed.model.batches == whole.model.batches


def test_accumulation_saves_only_at_optimizer_steps(tmp_path):
    """15 iterations in groups of 4: the epochs end in mid-accumulation, so saves wait for the next step."""
    whole = toy_runner(str(tmp_path / "whole"), accumulative_counts=4)
    expected = _train(whole)
    positions = {
        name: read_checkpoint(tmp_path / "whole" / name)["meta"]["iter"]
        for name in ("epoch_1.pth", "epoch_2.pth", "epoch_3.pth")
    }
    assert positions == {"epoch_1.pth": 8, "epoch_2.pth": 12, "epoch_3.pth": 15}
    cut = toy_runner(str(tmp_path / "cut"), accumulative_counts=4, hooks={"stop": StopAt(10)})
    with pytest.raises(InterruptedError):
        cut.train()
    resumed = toy_runner(str(tmp_path / "cut"), accumulative_counts=4, resume=True)
    assert_same(_train(resumed), expected)


def test_the_best_checkpoint_in_mid_accumulation_can_be_resumed(tmp_path):
    """The first epoch ends one batch into an accumulation of 4: the gradients so far are saved with the best."""
    best = {"checkpoint": CheckpointHook(save_best="error", rule="less")}
    whole = toy_runner(str(tmp_path / "whole"), accumulative_counts=4, hooks=best)
    expected = _train(whole)
    path = tmp_path / "whole" / "first.pth"
    hooks = {"save": SaveAfterValidation(), "stop": StopAt(7)}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path / "whole"), accumulative_counts=4, hooks=hooks).train()
    assert read_checkpoint(path)["meta"]["iter"] == 5
    resumed = toy_runner(str(tmp_path / "other"), accumulative_counts=4, resume=str(path))
    assert_same(_train(resumed), expected)


def test_stopping_during_validation_validates_again(tmp_path):
    class StopInValidation(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.epoch == 2 and batch_idx == 1:
                raise InterruptedError("killed")

    whole = toy_runner(str(tmp_path / "whole"), hooks={"checkpoint": CheckpointHook(save_best="error", rule="less")})
    expected = _train(whole)
    best = {"checkpoint": CheckpointHook(save_best="error", rule="less")}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path / "cut"), hooks={**best, "stop": StopInValidation()}).train()
    best = {"checkpoint": CheckpointHook(save_best="error", rule="less")}
    resumed = toy_runner(str(tmp_path / "cut"), hooks=best, resume=True)
    assert_same(_train(resumed), expected)
    assert resumed.message_hub.get_scalar("val/error").data[0].tolist() == (
        whole.message_hub.get_scalar("val/error").data[0].tolist()
    )
    assert resumed.hooks["checkpoint"].state_dict() == whole.hooks["checkpoint"].state_dict()


def test_val_and_test_build_no_optimizer(tmp_path):
    runner = toy_runner(str(tmp_path))
    runner._parts["optim_wrapper"] = runner._parts["train_loop"] = None
    assert runner.val().keys() == {"error"}
    assert runner.test().keys() == {"error"}


def test_evaluating_a_checkpoint_gives_the_metric_of_training(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"checkpoint": CheckpointHook(save_best="error", rule="less")})
    runner.train()
    best = runner.hooks["checkpoint"].best.scores["error"]
    again = toy_runner(str(tmp_path))
    again.set_checkpoint("best", strict=True)
    assert again.val() == {"error": best}
    assert again.iter in (5, 10, 15)  # the iteration of the weights, so that curves show the metric in its place


def test_the_best_of_a_folder_is_that_of_its_newest_run(tmp_path):
    for n, name in enumerate(["best_error_epoch_9.pth", "best_error_epoch_3.pth", "epoch_4.pth"]):
        meta = {"iter": 9 - n, "run_id": "old" if n == 0 else "new"}
        save_checkpoint({"meta": meta, "train_loop": {}}, tmp_path / name)
    mark_latest_checkpoint(tmp_path / "epoch_4.pth")
    runner = toy_runner(str(tmp_path))
    runner.set_checkpoint("best")
    assert runner.load_from.path == str(tmp_path / "best_error_epoch_3.pth")
    save_checkpoint({"meta": {"iter": 7, "run_id": "new"}}, tmp_path / "best_top1_epoch_3.pth")
    with pytest.raises(ValueError, match=r"best checkpoints of several metrics, name one: .*best_error.*best_top1"):
        runner.set_checkpoint("best")


def test_retention_keeps_the_newest(tmp_path):
    toy_runner(str(tmp_path), hooks={"checkpoint": CheckpointHook(max_keep_ckpts=1)}).train()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["epoch_3.pth"]
    assert (tmp_path / "last_checkpoint").read_text().strip() == "epoch_3.pth"


def test_resuming_into_another_folder_deletes_nothing_there(tmp_path):
    hooks = {"checkpoint": CheckpointHook(max_keep_ckpts=1), "stop": StopAt(12)}
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path / "old"), hooks=hooks).train()
    before = sorted(p.name for p in (tmp_path / "old").iterdir())
    runner = toy_runner(
        str(tmp_path / "new"),
        hooks={"checkpoint": CheckpointHook(max_keep_ckpts=1)},
        resume=str(tmp_path / "old" / "epoch_2.pth"),
    )
    runner.train()
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == before
    assert [p.name for p in (tmp_path / "new").glob("*.pth")] == ["epoch_3.pth"]


def test_resume_auto_begins_anew_in_an_empty_folder_and_stops_when_all_are_broken(tmp_path):
    toy_runner(str(tmp_path / "empty"), max_epochs=1, resume=True).train()
    assert (tmp_path / "empty" / "epoch_1.pth").exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "epoch_1.pth").write_bytes(b"nothing that torch wrote")
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint in .*epoch_1\.pth"):
        toy_runner(str(tmp_path / "broken"), resume=True).train()


def test_an_explicit_path_never_falls_back(tmp_path):
    toy_runner(str(tmp_path), max_epochs=1).train()
    (tmp_path / "mine.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="html"):
        toy_runner(str(tmp_path), resume=str(tmp_path / "mine.pth")).train()


def test_weights_alone_cannot_be_resumed(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"checkpoint": CheckpointHook(save_optimizer=False)}, max_epochs=1)
    runner.train()
    with pytest.raises(CheckpointError, match=r"cannot be resumed: it has no optimizer.*load_from"):
        toy_runner(str(tmp_path), resume=str(tmp_path / "epoch_1.pth")).train()


def test_load_from_with_revised_keys(tmp_path):
    first = toy_runner(str(tmp_path / "a"), max_epochs=1)
    first.train()
    torch.save({f"old.{k}": v for k, v in first.model.state_dict().items()}, tmp_path / "old.pth")
    load = LoadFrom(str(tmp_path / "old.pth"), revise_keys=[(r"^old\.", "")], strict=True)
    second = toy_runner(str(tmp_path / "b"), load_from=load)
    second.val()
    assert_same(weights_of(first), weights_of(second))


def test_load_from_as_a_dict_of_arguments(tmp_path):
    first = toy_runner(str(tmp_path / "a"), max_epochs=1)
    first.train()
    torch.save({f"old.{k}": v for k, v in first.model.state_dict().items()}, tmp_path / "old.pth")
    load = {"path": str(tmp_path / "old.pth"), "revise_keys": [(r"^old\.", "")], "strict": True}
    second = toy_runner(str(tmp_path / "b"), load_from=load)
    second.val()
    assert_same(weights_of(first), weights_of(second))
    with pytest.raises(ValueError, match=r"expected a path, or a dict with 'path' and some of \['revise_keys'"):
        toy_runner(str(tmp_path / "c"), load_from={"file": "old.pth"})


def test_an_optimizer_over_another_model_is_refused(tmp_path):
    runner = toy_runner(str(tmp_path))
    foreign = toy_runner(str(tmp_path / "other"))
    runner._parts["optim_wrapper"] = foreign.optim_wrapper
    with pytest.raises(RuntimeError, match=r"6 of the optimizer's parameters are not the model's"):
        runner.train()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Runner.train\(\) cannot train without train_loop"):
        Runner(torch.nn.Linear(1, 1), work_dir=str(tmp_path)).train()
    with pytest.raises(ValueError, match="no val_loop"):
        Runner(torch.nn.Linear(1, 1), work_dir=str(tmp_path)).val()


def test_an_error_in_the_step_names_iteration_and_batch(tmp_path):
    runner = toy_runner(str(tmp_path))
    runner.model.net[0] = torch.nn.Linear(3, 8)
    runner._parts["optim_wrapper"] = type(runner.optim_wrapper)(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    del runner.optim_wrapper
    runner._parts["param_schedulers"] = None
    with pytest.raises(RuntimeError) as caught:
        runner.train()
    notes = "\n".join(caught.value.__notes__)
    assert "training iteration 0 (epoch 0, batch 0)" in notes
    assert "x: float32[4, 4]" in notes


def test_a_plain_loader_cannot_resume_in_mid_epoch(tmp_path):
    runner = toy_runner(str(tmp_path))
    loop = EpochBasedTrainLoop(torch.utils.data.DataLoader(ToyData(), 4), 2)
    loop.position.batch = 3
    with pytest.raises(RuntimeError, match=r"cannot resume exactly.*at batch 3.*lazyengine.dataset.DataLoader"):
        loop.begin_pass(runner)


def test_bad_arguments_of_loops_echo_the_value():
    with pytest.raises(ValueError, match="max_epochs=0"):
        EpochBasedTrainLoop([1], 0)
    with pytest.raises(ValueError, match="has no batch"):
        EpochBasedTrainLoop([], 1)
    with pytest.raises(TypeError, match="use IterBasedTrainLoop"):
        EpochBasedTrainLoop(iter([1]), 1)


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (("net.0", "net.1", "net.3"), ""),
        (("net.3",), "; in no optimizer, and left as they are: net.0.weight, net.0.bias, net.1.weight, net.1.bias\n"),
        (("net.0", "net.3"), "; in no optimizer, and left as they are: net.1.weight, net.1.bias\n"),
    ],
)
def test_parameters_that_no_optimizer_holds_are_named_at_the_start(tmp_path, held, named):
    model = ToyModel()
    params = [parameter for name in held for parameter in model.get_submodule(name).parameters()]
    loop, wrapper = EpochBasedTrainLoop(DataLoader(ToyData(), 4), 1), OptimWrapper(torch.optim.SGD(params, lr=0.1))
    runner = Runner(model, train_loop=loop, optim_wrapper=wrapper, work_dir=str(tmp_path))
    runner.train()
    (log,) = tmp_path.glob("*/*.log")
    (line,) = re.findall("\n  model  .*\n", log.read_text())
    assert line.partition("frozen")[2] == (named or "\n")
