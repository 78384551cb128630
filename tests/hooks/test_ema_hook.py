"""Averaged weights beside the model: when they move, when they are used, how they are saved."""

from __future__ import annotations

import pytest
import torch

from lazyengine.checkpoint import read_checkpoint
from lazyengine.hooks import CheckpointHook, EMAHook, Hook
from lazyengine.model import StochasticWeightAverage

from ..runner.toy import toy_runner

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

    def after_val_epoch(self, runner, metrics=None):
        self.afterwards.append(runner.model.net[0].weight.detach().clone())


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
