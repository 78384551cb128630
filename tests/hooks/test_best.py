"""Which metric value counts as the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.hooks.best import BestTracker


def test_greater_and_less_by_name():
    tracker = BestTracker(["accuracy/top1", "loss"])
    assert tracker.update({"accuracy/top1": 0.5, "loss": 2.0}) == {"accuracy/top1": 0.5, "loss": 2.0}
    assert tracker.update({"accuracy/top1": 0.4, "loss": 1.0}) == {"loss": 1.0}
    assert tracker.scores == {"accuracy/top1": 0.5, "loss": 1.0}


def test_equal_and_nan_are_not_better():
    tracker = BestTracker(["acc"])
    assert tracker.update({"acc": math.nan}) == {}
    assert tracker.update({"acc": 0.5}) == {"acc": 0.5}
    assert tracker.update({"acc": 0.5}) == {}


def test_auto_takes_the_first_metric_of_the_first_evaluation():
    tracker = BestTracker(["auto"])
    tracker.update({"coco/bbox_mAP": 0.1, "loss": 3.0})
    assert tracker.scores == {"coco/bbox_mAP": 0.1}


def test_rule_is_asked_for_when_the_name_does_not_tell():
    with pytest.raises(ValueError, match=r"greater or a smaller 'fid' better.*set rule="):
        BestTracker(["fid"]).update({"fid": 3.0})
    assert BestTracker(["fid"], ["less"]).update({"fid": 3.0}) == {"fid": 3.0}


def test_rules_must_match_the_metrics():
    with pytest.raises(ValueError, match=r"expected one of 'greater' and 'less' for each of the 2"):
        BestTracker(["a", "b"], ["greater"])
    with pytest.raises(ValueError, match="'bigger'"):
        BestTracker(["a"], ["bigger"])  # type: ignore[list-item]


def test_state_survives():
    tracker = BestTracker(["auto"])
    tracker.update({"acc": 0.9})
    other = BestTracker(["auto"])
    other.load_state_dict(tracker.state_dict())
    assert other.update({"acc": 0.8}) == {}
    assert other.update({"acc": 0.95}) == {"acc": 0.95}


def test_a_best_value_by_another_rule_is_none():
    tracker = BestTracker(["loss", "acc"], ["less", "greater"])
    tracker.update({"loss": 1.0, "acc": 0.5})
    other = BestTracker(["loss", "acc"], ["greater", "greater"])
    other.load_state_dict(tracker.state_dict())
    assert other.scores == {"acc": 0.5}
    assert other.update({"loss": 0.5, "acc": 0.4}) == {"loss": 0.5}
    former = {name: value for name, value in tracker.state_dict().items() if name != "rules"}  # of version 0.1
    other.load_state_dict(former)
    assert other.scores == {"loss": 1.0, "acc": 0.5}


@pytest.mark.seam(19, "several loaders")
def test_the_name_of_a_loader_says_nothing():
    names = ["topview/rmse", "accident/mae", "stopped_cars/error_rate", "heatmaps/seg/mIoU"]
    assert BestTracker(names).rules == dict(zip(names, ["less", "less", "less", "greater"]))
    with pytest.raises(ValueError, match="is a greater or a smaller 'topview/l2' better"):
        BestTracker(["topview/l2"])


@pytest.mark.seam(19, "speaks for both", "given rule")
@pytest.mark.parametrize("name", ["dice_loss", "loss_iou", "accuracy_loss", "1-iou"])
def test_a_named_metric_that_speaks_for_both_is_refused_at_the_start(name):
    with pytest.raises(UsageError, match="rule='greater' or rule='less'"):
        BestTracker([name])
    tracker = BestTracker([name], "less")
    tracker.update({name: 0.5})
    assert tracker.update({name: 0.4}) == {name: 0.4}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("rule", ["greater", "less"])
def test_what_is_not_finite_is_never_best(value, rule):
    tracker = BestTracker(["x"], rule)
    assert tracker.update({"x": value}) == {}
    assert tracker.update({"x": 0.0}) == {"x": 0.0}
    assert tracker.update({"x": value}) == {}
    assert tracker.scores == {"x": 0.0}


def test_a_missing_metric_says_what_is_there_and_changes_nothing():
    tracker = BestTracker(["acc", "los"], ["greater", "less"])
    with pytest.raises(UsageError, match=r"no metric is named 'los'; there are acc, loss. Did you mean 'loss'"):
        tracker.update({"acc": 1.0, "loss": 2.0})
    assert tracker.scores == {}
    with pytest.raises(UsageError, match="the metric 'acc' is no number"):
        BestTracker(["acc"]).update({"acc": "high"})


@pytest.mark.seam(19, "auto", "resume", "given rule")
def test_auto_keeps_a_given_rule_over_a_resume():
    tracker = BestTracker(["auto"], "less")
    tracker.update({"fid": 3.0, "acc": 1.0})
    resumed = BestTracker(["auto"], "less")
    resumed.load_state_dict(tracker.state_dict())
    assert resumed.update({"fid": 4.0, "acc": 1.0}) == {}
    assert resumed.update({"fid": 2.0, "acc": 1.0}) == {"fid": 2.0}


@pytest.mark.seam(19, "auto")
def test_auto_is_decided_at_the_first_evaluation_and_may_be_refused_there():
    tracker = BestTracker(["auto"])
    assert tracker.update({}) == {}
    with pytest.raises(UsageError, match=r"'dice_loss' better\? It speaks for both"):
        tracker.update({"dice_loss": 0.5})
    assert tracker.indicators == ["auto"]


def test_auto_stands_alone():
    tracker = BestTracker(["auto", "loss"])
    with pytest.raises(UsageError, match="no metric is named 'auto'; there are acc, loss"):
        tracker.update({"acc": 1.0, "loss": 2.0})
    assert tracker.indicators == ["auto", "loss"]


def test_numbers_of_other_kinds_count():
    assert BestTracker(["acc"]).update({"acc": np.array([0.5])}) == {"acc": 0.5}
    assert BestTracker(["acc"]).update({"acc": torch.tensor([0.5])}) == {"acc": 0.5}
