"""Whether more or less of a metric is better, and which value a name means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.evaluator import get_metric_value, is_better, rule_of, score_of

GREATER = [
    "acc", "accuracy", "accuracy/top1", "accuracy/top5", "top_5_accuracy", "coco/bbox_mAP", "bbox_mAP_50",
    "coco/AR@100", "coco/AR_s@1000", "pascal_voc/mAP", "pascal_voc/AP50", "AP", "mIoU", "mDice", "aAcc", "mAcc",
    "mFscore", "mPrecision", "miou", "macc", "PSNR", "psnr", "SSIM", "ms_ssim", "roc_auc", "AUC@0.5", "auroc",
    "recall", "single-label/f1-score", "F1", "macro_f1", "BinaryF1Score", "multiclassf1score",
    "multiclassaccuracy", "MulticlassAccuracy", "BinaryPrecision", "MultilabelAveragePrecision", "valAcc",
    "meanIoU", "val_acc_1", "heatmaps/seg/mIoU", "1-shot/acc", "acc_seg", "decode.acc_seg",
]  # fmt: skip

LESS = [
    "loss", "val_loss", "loss_cls", "val/loss", "decode.loss_ce", "losses", "train-loss", "valLoss", "focalloss",
    "BCELoss", "bbox_loss", "Top1Error", "top1_error", "error_top1", "error", "errors", "err", "error_rate", "mae",
    "MAE", "mse", "rmse", "nrmse", "mape", "smape", "MeanSquaredError", "meansquarederror", "wer", "WER", "cer",
    "nll", "bpc", "perplexity", "ppl", "topview/rmse", "accident/mae", "stopped_cars/error_rate", "dice/loss",
]  # fmt: skip

BOTH = [
    "dice_loss", "loss_iou", "map_loss", "accuracy_loss", "DiceLoss", "1-iou", "neg_mse", "negative_loss",
    "one_minus_iou", "acc_std", "precision_drop", "acc_err",
]  # fmt: skip

NEITHER = [
    "fid", "l1", "topview/l2", "stop", "laptop", "escape", "accident", "heatmap", "mapping", "1", "value", "map/x",
]  # fmt: skip


@pytest.mark.parametrize("name", GREATER)
def test_more_is_better(name):
    assert rule_of(name) == "greater"


@pytest.mark.parametrize("name", LESS)
def test_less_is_better(name):
    assert rule_of(name) == "less"


@pytest.mark.parametrize("name", BOTH)
def test_a_name_that_speaks_for_both_is_refused(name):
    with pytest.raises(UsageError, match=r"speaks for both.*rule='greater' or rule='less'"):
        rule_of(name)


@pytest.mark.parametrize("name", NEITHER)
def test_a_name_that_speaks_for_neither_is_refused(name):
    with pytest.raises(UsageError, match=r"a greater or a smaller .* better.*not tell.*rule='greater' or rule='less'"):
        rule_of(name)


def test_keys_that_the_user_gives_are_parts_of_names_as_in_mmengine():
    assert rule_of("my_fidelity", greater_keys=["FID"]) == "greater"
    assert rule_of("fid_full", less_keys="fid") == "less"
    assert rule_of("dice_loss", greater_keys=["dice"]) == "greater"
    assert rule_of("dice_loss", less_keys=["loss"]) == "less"
    assert rule_of("a_b", greater_keys=["a"], less_keys=["a_b"]) == "less"  # a whole name before a part of one
    assert rule_of("a_b", greater_keys=["a"], less_keys=["b"]) == "greater"
    assert rule_of("coco/x", less_keys=["coco/x"]) == "less"
    assert rule_of("val_loss", greater_keys=["fid"]) == "less"
    with pytest.raises(UsageError):
        rule_of("acc", greater_keys=["fid"])  # they stand instead of the usual ones
    with pytest.raises(UsageError):
        rule_of("accident/x", greater_keys=["acc"])  # the name of a loader says nothing


def test_a_given_rule_is_checked():
    assert rule_of("dice_loss", rule="less") == "less"
    with pytest.raises(UsageError, match=r"rule='min' of 'acc'.*'greater' or 'less'"):
        rule_of("acc", rule="min")  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_never_better():
    assert is_better(1.0, None, "greater")
    assert is_better(2.0, 1.0, "greater")
    assert is_better(1.0, 2.0, "less")
    assert not is_better(1.0, 1.0, "less")
    for value in (math.inf, -math.inf, math.nan):
        for rule in ("greater", "less"):
            assert not is_better(value, None, rule)
            assert not is_better(value, 0.0, rule)


# ---- the value of a name


def test_a_name_means_a_value_with_or_without_what_stands_before_it():
    metrics = {"accuracy/top1": 0.9, "accuracy/top5": 1.0, "coco/AP": 0.3, "lvis/AP": 0.2, "loss": 1.5, "few/loss": 2.0}
    assert get_metric_value("accuracy/top1", metrics) == 0.9
    assert get_metric_value("top5", metrics) == 1.0
    assert get_metric_value("loss", metrics) == 1.5
    assert get_metric_value("m/top1", {"clean/m/top1": 0.5}) == 0.5
    with pytest.raises(UsageError, match=r"'AP' is ambiguous: it matches coco/AP, lvis/AP"):
        get_metric_value("AP", metrics)
    with pytest.raises(UsageError, match=r"no metric is named 'top2'; there are .*Did you mean 'top"):
        get_metric_value("top2", metrics)
    with pytest.raises(ValueError, match="no metric is named 'val/top1'"):
        get_metric_value("val/top1", metrics)
    with pytest.raises(ValueError, match="no metric is named 'loss'; there are none"):
        get_metric_value("loss", {})


def test_a_score_is_one_number():
    values = [1, 1.0, np.float32(1), np.array([1.0]), np.array(1), torch.tensor(1), torch.tensor([[1.0]])]
    for value in values:
        score = score_of("x", {"x": value})
        assert score == 1.0
        assert type(score) is float
    for value in ("0.1 0.2", [1.0], torch.ones(2), np.ones(2), None):
        with pytest.raises(UsageError, match="the metric 'x' is no number"):
            score_of("x", {"x": value})


@pytest.mark.parametrize(
    ("name", "meant"), [("acuracy", "accuracy"), ("val/precison", "precision"), ("perplexty", "perplexity")]
)
def test_a_misspelt_word_is_named(name, meant):
    with pytest.raises(UsageError, match=rf"not tell\. Did you mean '{meant}'\? If not: set rule="):
        rule_of(name)
