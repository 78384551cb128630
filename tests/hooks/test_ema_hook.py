"""Averaged weights beside the model: when they move, when they are used, how they are saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lazyengine.checkpoint import load_state_dict, read_checkpoint
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Evaluator
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, default_hooks
from lazyengine.model import StochasticWeightAverage
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop

from ..runner.toy import MeanError, ToyData, ToyModel, toy_runner

WEIGHT = "net.0.weight"


class Weights(Hook):
    """Notes a weight of the model after each iteration, and during and after each validation."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.evaluated: list[torch.Tensor] = []
        self.afterwards: list[torch.Tensor] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append(runner.model.net[0].weight.detach().clone())

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0:
            self.evaluated.append(runner.model.net[0].weight.detach().clone())

    def before_train_epoch(self, runner):
        if runner.epoch:
            self.after_train(runner)

    def after_train(self, runner):
        self.afterwards.append(runner.model.net[0].weight.detach().clone())


def runner_of(folder, hooks, loader=None, *, max_epochs=2, max_iters=None, nonfinite="raise", **kwargs) -> Runner:
    """Build a runner as `toy_runner` does, without schedulers, over another loader."""
    torch.manual_seed(0)
    model, data = ToyModel(), ToyData()
    if loader is None:
        loader = DataLoader(data, 4, sampler=DefaultSampler(data, shuffle=True))
    return Runner(
        model,
        train_loop=IterBasedTrainLoop(loader, max_iters) if max_iters else EpochBasedTrainLoop(loader, max_epochs),
        val_loop=ValLoop(DataLoader(data, 4), Evaluator([MeanError()])),
        optim_wrapper=OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.01), nonfinite=nonfinite),
        hooks={**default_hooks(), **hooks},
        work_dir=str(folder),
        **kwargs,
    )


def train(folder, ema: EMAHook | None = None, hooks: dict[str, Hook] | None = None, **kwargs):
    weights = Weights()
    named = {"weights": weights, **({"ema": ema} if ema else {}), **(hooks or {})}
    runner = toy_runner(str(folder), hooks=named, **kwargs)
    runner.train()
    return runner, weights


def average_of(weights: list[torch.Tensor], momentum: float, begin: int = 1) -> torch.Tensor:
    """The average after all `weights`: a copy up to number `begin`, then moved towards each."""
    average = weights[begin - 1].clone()
    for weight in weights[begin:]:
        average.lerp_(weight, momentum)
    return average


def test_validation_sees_the_average_and_training_does_not(tmp_path):
    _, plain = train(tmp_path / "plain", max_epochs=2)
    runner, noted = train(tmp_path / "ema", EMAHook(momentum=0.1), max_epochs=2)
    for a, b in zip(plain.trained, noted.trained, strict=True):
        assert torch.equal(a, b)
    for epoch in (1, 2):
        done = noted.trained[: 5 * epoch]
        torch.testing.assert_close(noted.evaluated[epoch - 1], average_of(done, 0.1))
        assert torch.equal(noted.afterwards[epoch - 1], done[-1])
    assert torch.equal(runner.model.net[0].weight, noted.trained[-1])


@pytest.mark.parametrize(("begin", "first"), [({"begin_iter": 4}, 4), ({"begin_epoch": 2}, 6), ({}, 1)])
def test_until_averaging_begins_the_average_is_a_copy(tmp_path, begin, first):
    _, noted = train(tmp_path, EMAHook(momentum=0.1, **begin), max_epochs=2)
    if first > 5:
        assert torch.equal(noted.evaluated[0], noted.trained[4])
    torch.testing.assert_close(noted.evaluated[1], average_of(noted.trained, 0.1, first))


@pytest.mark.parametrize(("counts", "counted"), [(4, True), (1, True), (4, False)])
def test_an_average_of_each_iteration_as_in_mmengine(tmp_path, counts, counted):
    hook = EMAHook(momentum=0.1, count_iters=counted)
    _, noted = train(tmp_path, hook, max_epochs=2, accumulative_counts=counts)
    taken = noted.trained if counted else [noted.trained[i] for i in (3, 7, 9)]
    torch.testing.assert_close(noted.evaluated[-1], average_of(taken, 0.1))
    assert hook.describe_interval() == ("each iteration" if counted else "each optimizer step")


@pytest.mark.seam(3, "accumulation", "average")
def test_another_kind_of_average_and_accumulation(tmp_path):
    """Equal weights of the optimizer's 4 steps, the last of which is of 3 iterations."""
    _, noted = train(tmp_path, EMAHook(StochasticWeightAverage), max_epochs=3, accumulative_counts=4)
    steps = [noted.trained[i] for i in (3, 7, 11, 14)]
    torch.testing.assert_close(noted.evaluated[-1], torch.stack(steps).mean(0))


def test_a_checkpoint_holds_the_average_first_and_a_plain_load_gets_it(tmp_path):
    runner, noted = train(tmp_path / "run", EMAHook(momentum=0.1), max_epochs=2)
    saved = read_checkpoint(tmp_path / "run" / "epoch_2.pth")
    assert torch.equal(saved["state_dict"][WEIGHT], noted.evaluated[-1])
    assert torch.equal(saved["ema_state_dict"][WEIGHT], noted.trained[-1])
    again = toy_runner(str(tmp_path / "again"), load_from=str(tmp_path / "run" / "epoch_2.pth"))
    assert again.val() == {"error": runner.message_hub.get_scalar("val/error").current()}


def test_resume_goes_on_with_both(tmp_path):
    _, whole = train(tmp_path / "whole", EMAHook(momentum=0.1), max_epochs=3)
    path = str(tmp_path / "whole" / "epoch_2.pth")
    _, resumed = train(tmp_path / "resumed", EMAHook(momentum=0.1), max_epochs=3, resume=path)
    assert torch.equal(resumed.trained[-1], whole.trained[-1])
    assert torch.equal(resumed.evaluated[-1], whole.evaluated[-1])


def test_strict_load_refuses_a_checkpoint_without_averages(tmp_path):
    train(tmp_path / "plain", max_epochs=1)
    path = str(tmp_path / "plain" / "epoch_1.pth")
    with pytest.raises(KeyError, match=r"saved without EMAHook.*Set strict_load=False"):
        train(tmp_path / "a", EMAHook(), max_epochs=2, resume=path)
    _, noted = train(tmp_path / "b", EMAHook(momentum=0.1, strict_load=False), max_epochs=2, resume=path)
    torch.testing.assert_close(noted.evaluated[-1], average_of(noted.trained, 0.1))


def test_the_best_is_saved_with_the_average_that_was_evaluated(tmp_path):
    best: dict[str, Hook] = {"checkpoint": CheckpointHook(interval=-1, save_best="error", rule="less", save_last=False)}
    _, noted = train(tmp_path, EMAHook(momentum=0.1), hooks=best, max_epochs=1)
    saved = read_checkpoint(tmp_path / "best_error_epoch_1.pth")
    assert torch.equal(saved["state_dict"][WEIGHT], noted.evaluated[0])
    assert torch.equal(saved["ema_state_dict"][WEIGHT], noted.trained[-1])


def test_arguments_are_checked_when_they_are_given():
    with pytest.raises(ValueError, match="begin_iter=3, begin_epoch=1: expected one of them"):
        EMAHook(begin_iter=3, begin_epoch=1)
    with pytest.raises(ValueError, match="begin_iter=-1"):
        EMAHook(begin_iter=-1)


# ---------------------------------------------------------------------- the same is evaluated, saved and averaged


class SeesValidation(Hook):
    """Keeps the weights and statistics that a hook sees at the points of a validation, before and behind all others."""

    def __init__(self, priority: str) -> None:
        self.priority = priority
        self.seen: dict[str, dict[str, torch.Tensor]] = {}

    def _note(self, point, runner):
        self.seen[point] = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def before_val(self, runner):
        self._note("before_val", runner)

    def before_val_epoch(self, runner):
        self._note("before_val_epoch", runner)

    def after_val_epoch(self, runner, metrics=None):
        self._note("after_val_epoch", runner)

    def after_val(self, runner):
        self._note("after_val", runner)


def metric_of(path, folder):
    return toy_runner(str(folder), load_from=str(path)).val()["error"]


@pytest.mark.seam(14, "hooks of a validation")
@pytest.mark.parametrize("priority", ["HIGHEST", "LOWEST"])
def test_every_hook_sees_the_evaluated_weights_during_the_whole_validation(tmp_path, priority):
    sees = SeesValidation(priority)
    train(tmp_path, EMAHook(momentum=0.1), hooks={"sees": sees}, max_epochs=1)
    saved = read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]
    assert len(sees.seen) == 4
    for state in sees.seen.values():
        assert all(torch.equal(state[key], value) for key, value in saved.items())


OPTIONS = {
    "plain": ({}, 1),
    "accumulation": ({}, 3),
    "averaged buffers": ({"update_buffers": True}, 1),
    "averaged buffers, accumulation": ({"update_buffers": True}, 3),
    "interval": ({"interval": 2}, 2),
    "interval, averaged buffers": ({"interval": 3, "update_buffers": True}, 2),
    "not begun": ({"begin_iter": 1000}, 3),
    "not begun, averaged buffers": ({"begin_epoch": 100, "update_buffers": True}, 3),
    "begins in the middle": ({"begin_iter": 7}, 3),
    "swa": ({"ema_type": StochasticWeightAverage}, 3),
    "statistics": ({"update_bn": True}, 1),
    "statistics of swa, accumulation": ({"ema_type": StochasticWeightAverage, "update_bn": True}, 3),
}


class SavesEachValidation(Hook):
    """Saves in each validation, as the best ones are, and notes the metric."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def after_val_epoch(self, runner, metrics=None):
        name = f"seen_{len(self.metrics)}.pth"
        self.metrics[name] = metrics["error"]
        runner.save_checkpoint(name, is_latest=False)


@pytest.mark.seam(14, "accumulation", "averaged buffers", "interval", "not begun", "statistics", "epoch", "iteration")
@pytest.mark.parametrize("loop", ["epochs", "iterations"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_best_and_the_last_file_give_the_recorded_metric(tmp_path, name, loop):
    options, accumulative_counts = OPTIONS[name]
    kwargs = {"max_epochs": 2} if loop == "epochs" else {"max_iters": 8, "val_interval": 4}
    saves = SavesEachValidation()
    checkpoint = CheckpointHook(1 if loop == "epochs" else 4, by_epoch=loop == "epochs")
    ema = EMAHook(**({} if "ema_type" in options else {"momentum": 0.3}), **options)
    hooks = {"checkpoint": checkpoint, "saves": saves}
    runner, _ = train(tmp_path / "run", ema, hooks, accumulative_counts=accumulative_counts, **kwargs)
    assert len(saves.metrics) == 2
    for file, metric in saves.metrics.items():
        assert metric_of(tmp_path / "run" / file, tmp_path / file) == metric, file
    last = tmp_path / "run" / ("epoch_2.pth" if loop == "epochs" else "iter_8.pth")
    assert metric_of(last, tmp_path / "last") == metric
    assert runner.val()["error"] == metric  # afterwards, in the same process


@pytest.mark.seam(14, "training")
@pytest.mark.parametrize("name", OPTIONS)
def test_the_average_changes_nothing_about_the_training(tmp_path, name):
    options, accumulative_counts = OPTIONS[name]
    plain, _ = train(tmp_path / "plain", max_epochs=2, accumulative_counts=accumulative_counts)
    runner, _ = train(tmp_path / "ema", EMAHook(**options), max_epochs=2, accumulative_counts=accumulative_counts)
    for key, value in plain.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[key], value), key
    assert runner.model.batches == plain.model.batches


@pytest.mark.seam(14, "resume", "accumulation")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_average_is_that_of_a_run_that_never_stopped(tmp_path, name):
    options, accumulative_counts = OPTIONS[name]
    kwargs = {"max_epochs": 3, "accumulative_counts": accumulative_counts}
    train(tmp_path / "whole", EMAHook(**options), **kwargs)
    path = str(tmp_path / "whole" / "epoch_2.pth")
    train(tmp_path / "resumed", EMAHook(**options), resume=path, **kwargs)
    whole, resumed = (read_checkpoint(tmp_path / folder / "epoch_3.pth") for folder in ("whole", "resumed"))
    for part in ("state_dict", "ema_state_dict"):
        for key, value in whole[part].items():
            assert torch.equal(resumed[part][key], value), (part, key)


@pytest.mark.seam(14, "bfloat16", "float16")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_averaged_in_float32_saved_as_evaluated_and_resumed_exactly(tmp_path, dtype):
    def run(folder, **kwargs):
        runner = toy_runner(str(folder), hooks={"ema": EMAHook(momentum=0.003)}, max_epochs=4, **kwargs)
        runner.model.net[3].to(dtype)
        runner.optim_wrapper.param_groups[0]["eps"] = 1e-4  # the usual one is zero in float16
        runner.model.net[2].register_forward_hook(lambda module, args, output: output.to(dtype))
        runner.train()
        return runner

    runner = run(tmp_path / "whole")
    average = runner.hooks["ema"].ema_model
    whole = read_checkpoint(tmp_path / "whole" / "epoch_4.pth")
    assert whole["state_dict"]["net.3.weight"].dtype == dtype
    assert whole["ema_wide"].keys() == {"net.3.weight", "net.3.bias"}
    wide = average.state_dict()["wide.net.3.weight"]
    assert torch.equal(whole["ema_wide"]["net.3.weight"], wide)
    assert not torch.equal(wide, whole["state_dict"]["net.3.weight"].float())
    published = toy_runner(str(tmp_path / "published"))
    published.model.net[3].to(dtype)
    assert load_state_dict(published.model, whole["state_dict"], strict=True) == ([], [])
    run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "epoch_2.pth"))
    resumed = read_checkpoint(tmp_path / "resumed" / "epoch_4.pth")
    for part in ("state_dict", "ema_state_dict", "ema_wide"):
        for key, value in whole[part].items():
            assert torch.equal(resumed[part][key], value), (part, key)


@pytest.mark.seam(3, "skipped update", "average")
def test_an_update_that_was_skipped_is_no_step_of_the_average(tmp_path):
    class Spoils(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter in (1, 3):
                data_batch["y"].fill_(float("nan"))

    noted = Weights()
    hooks = {"weights": noted, "spoils": Spoils(), "ema": EMAHook(StochasticWeightAverage)}
    runner_of(tmp_path, hooks, nonfinite="skip").train()
    steps = [noted.trained[i] for i in (0, 2, 4)]
    torch.testing.assert_close(noted.evaluated[0], torch.stack(steps).mean(0))


# ---------------------------------------------------------------------- statistics of averaged weights


def statistics(state):
    return {key: value for key, value in state.items() if "running" in key or "num_batches" in key}


def test_the_statistics_are_those_that_torch_computes(tmp_path):
    from torch.optim.swa_utils import update_bn

    runner, _ = train(tmp_path, EMAHook(StochasticWeightAverage, update_bn=True), max_epochs=2)
    saved = read_checkpoint(tmp_path / "epoch_2.pth")["state_dict"]
    model = type(runner.model)()
    model.load_state_dict(saved)
    loader = runner.train_dataloader
    update_bn([batch["x"] for batch in loader], model.net)  # the norm layer stands before the dropout
    for key, value in statistics(model.state_dict()).items():
        torch.testing.assert_close(saved[key], value)
    assert not torch.equal(saved["net.1.running_mean"], runner.model.net[1].running_mean)


def test_a_number_of_batches_bounds_the_pass(tmp_path):
    runner, _ = train(tmp_path, EMAHook(update_bn=2), max_epochs=1)
    assert read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]["net.1.num_batches_tracked"] == 2
    assert runner.model.net[1].num_batches_tracked == 5
    with pytest.raises(ValueError, match="update_bn=-1"):
        EMAHook(update_bn=-1)
    with pytest.raises(ValueError, match=r"update_bn=True, update_buffers=True.*give one of them"):
        EMAHook(update_bn=True, update_buffers=True)


class OwnNoise(ToyData):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(7)

    def __getitem__(self, index):
        return {**super().__getitem__(index), "x": self.x[index] + self.generator.random()}


@pytest.mark.parametrize(("data", "num_workers"), [(ToyData, 0), (ToyData, 2), (OwnNoise, 0)])
def test_the_pass_over_torchs_loader_draws_nothing_that_training_draws(tmp_path, data, num_workers):
    def run(folder, **options):
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(
            data(), 4, shuffle=True, generator=torch.Generator().manual_seed(3), num_workers=num_workers
        )
        runner = runner_of(folder, {"ema": EMAHook(**options)}, loader, exact_resume=False)
        return runner.train()

    plain, computed = run(tmp_path / "plain"), run(tmp_path / "computed", update_bn=True)
    assert plain.batches == computed.batches
    for key, value in plain.state_dict().items():
        assert torch.equal(computed.state_dict()[key], value), key


def test_statistics_that_do_not_move_in_training_are_left_alone(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"ema": EMAHook(update_bn=True)}, max_epochs=1)
    runner.model.net[1].eval()
    runner.model.net[1].train = lambda mode=True: runner.model.net[1]
    runner.train()
    assert read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]["net.1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("length", "save"),
    [
        ({"max_iters": 12}, {"interval": 12}),  # resumed when all is done
        ({"max_iters": 10}, {"interval": 10}),  # and at the end of a pass
        ({"max_epochs": 2}, {"interval": 10, "by_epoch": False, "save_last": False}),  # behind an epoch's last batch
    ],
)
def test_statistics_are_computed_once_and_the_same_after_a_resume(tmp_path, length, save):
    def run(**options):
        hook, loader = EMAHook(update_bn=True, momentum=0.3), CountingLoader()
        runner_of(tmp_path, {"ema": hook, "checkpoint": CheckpointHook(**save)}, loader, **length, **options).train()
        return loader.passes, hook.ema_model.module.state_dict()

    passes, expected = run()
    assert passes == (3 if length.get("max_iters") == 10 else 4)  # of training, and the last one, or one an epoch
    _, found = run(resume=True)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


class CountingLoader(DataLoader):
    """Counts how often it is passed over."""

    def __init__(self) -> None:
        data = ToyData()
        super().__init__(data, 4, sampler=DefaultSampler(data, shuffle=True))
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_a_stream_is_refused_for_statistics(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield {"x": torch.ones(4), "y": torch.ones(()), "index": torch.tensor(0)}

    loader = torch.utils.data.DataLoader(Stream(), 4)
    runner = runner_of(tmp_path, {"ema": EMAHook(update_bn=True)}, loader, max_iters=4)
    with pytest.raises(ValueError, match=r"update_bn.*Stream"):
        runner.train()


# ---------------------------------------------------------------------- nesting and failure


def test_a_test_within_a_validation_and_a_failure_leave_each_weight_where_it_was(tmp_path):
    hook = EMAHook(momentum=0.5)
    runner, noted = train(tmp_path, hook, max_epochs=1)
    with hook.evaluation_context(runner):
        assert torch.equal(runner.model.net[0].weight, noted.evaluated[-1])
        with hook.evaluation_context(runner):
            assert torch.equal(runner.model.net[0].weight, noted.evaluated[-1])
        assert torch.equal(runner.model.net[0].weight, noted.evaluated[-1])
    assert torch.equal(runner.model.net[0].weight, noted.trained[-1])
    with pytest.raises(InterruptedError), hook.evaluation_context(runner):
        raise InterruptedError
    assert torch.equal(runner.model.net[0].weight, noted.trained[-1])
