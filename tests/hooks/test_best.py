"""Which metric value counts as the best."""

from __future__ import annotations

import math

import pytest

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


def test_the_name_of_a_loader_says_nothing():
    tracker = BestTracker(["topview/rmse", "accident/mae", "stopped_cars/error_rate", "heatmaps/seg/mIoU"])
    assert [tracker.rule_of(name) for name in tracker.indicators] == ["less", "less", "less", "greater"]
    with pytest.raises(ValueError, match="is a greater or a smaller 'topview/l2' better"):
        BestTracker(["topview/l2"])
