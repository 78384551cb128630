import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lazyengine.errors import UsageKeyError
from lazyengine.logging import LogProcessor, MessageHub
from lazyengine.logging.terminal import terminal_line

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mmengine.json").read_text())


def make_runner(hub, **kwargs):
    length = GOLDEN["epoch_length"]
    num_batches = dict(train=length, val=3, test=4).get
    runner = dict(iter=0, epoch=0, max_epochs=12, max_iters=75, num_batches=num_batches) | kwargs
    return SimpleNamespace(message_hub=hub, **{"num_iters_completed": runner["iter"] + 1, **runner})


def make_hub(**scalars):
    hub = MessageHub("test")
    for key, values in scalars.items():
        for value in values:
            hub.update_scalar(key.replace("__", "/"), value)
    return hub


def squeeze(text):
    return re.sub(" +", " ", text)


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_values_equal_mmengine(name):
    processor = LogProcessor(**GOLDEN["configs"][name])
    history, length = GOLDEN["processor"]["history"], GOLDEN["epoch_length"]
    cases = [case for case in GOLDEN["processor"]["cases"] if case["config"] == name]
    for case in cases:
        i = case["iter"]
        hub = make_hub(**{key: values[: i + 1] for key, values in history.items()})
        values, line = processor.get_log_after_iter(make_runner(hub, iter=i, epoch=i // length), i % length, "train")
        assert values.keys() == case["tag"].keys()
        for key, expected in case["tag"].items():
            assert values[key] == pytest.approx(expected, rel=1e-12, abs=0), key
        assert line.startswith(case["head"])
    assert cases


def test_an_evaluation_equals_mmengine():
    golden = GOLDEN["processor"]
    runner = make_runner(make_hub(**golden["validation"]), iter=30, epoch=1)
    values, line = LogProcessor().get_log_after_epoch(runner, 3, "val")
    assert values == pytest.approx(golden["after_val"]["tag"], rel=1e-12)
    assert squeeze(line).startswith(golden["after_val"]["head"])


def test_the_training_line():
    hub = make_hub(train__lr=[0.01], train__loss=[1.0, 0.5], train__time=[0.2], train__data_time=[0.1], train__num=[3])
    hub.update_info("eta", 3725.9)
    values, line = LogProcessor().get_log_after_iter(make_runner(hub, iter=31, epoch=1), 1, "train")
    assert line == (
        "Epoch(train)  [2][ 2/30]  lr: 1.0000e-02  eta: 1:02:05  num: 3  "
        "[mean of 10]  loss: 0.7500  time: 0.2000  data_time: 0.1000"
    )
    assert values == {"lr": 0.01, "loss": 0.75, "time": 0.2, "data_time": 0.1, "num": 3, "iter": 32, "epoch": 2}


def test_the_line_says_what_is_done_to_each_value():
    hub = make_hub(train__loss=[4.0, 1.0, 2.0, 3.0], train__acc=[0.5, 0.25])
    custom = [
        dict(data_src="loss", method_name="max", window_size="global", log_name="worst"),
        dict(data_src="loss", method_name="min", window_size="epoch", log_name="best"),
        dict(data_src="acc", method_name="mean", window_size=2),
        dict(data_src="nothing", method_name="mean", window_size=2),
    ]
    processor = LogProcessor(window_size=3, custom_cfg=custom, num_digits=2)
    values, line = processor.get_log_after_iter(make_runner(hub, iter=3), 1, "train")
    assert line == (
        "Epoch(train)  [1][ 2/30]  [mean of 3]  loss: 2.00  [mean of 2]  acc: 0.38  "
        "[max of all]  worst: 4.00  [min of the epoch]  best: 2.00"
    )
    assert (values["worst"], values["best"], values["acc"]) == (4, 2, 0.375)


def test_iteration_based_lines():
    hub = make_hub(train__loss=[0.25], val__time=[0.5], val__data_time=[0.25], val__acc=[1.0])
    processor = LogProcessor(by_epoch=False)
    runner = make_runner(hub, iter=6)
    assert processor.get_log_after_iter(runner, 6, "train")[1] == "Iter(train) [ 7/75]  [mean of 10]  loss: 0.2500"
    runner.num_iters_completed = 6
    values, line = processor.get_log_after_iter(runner, 1, "val")
    assert line == "Iter(val) [2/3]  [mean of 10]  time: 0.5000  data_time: 0.2500"
    assert (values["iter"], values["acc"]) == (6, 1.0)
    _, line = processor.get_log_after_epoch(runner, 3, "val")
    assert line == "Iter(val) [3/3]  acc: 1.0000  [mean of the epoch]  data_time: 0.2500  time: 0.5000"


def test_validation_and_test_lines():
    hub = make_hub(val__time=[0.5], test__acc=[0.5], test__time=[1.0])
    runner = make_runner(hub, epoch=3, iter=90)
    assert LogProcessor().get_log_after_iter(runner, 0, "val")[1] == "Epoch(val)  [3][1/3]  [mean of 10]  time: 0.5000"
    assert LogProcessor().get_log_after_iter(runner, 0, "test")[1] == "Epoch(test) [1/4]  [mean of 10]  time: 1.0000"
    values, line = LogProcessor().get_log_after_epoch(runner, 4, "test")
    assert line == "Epoch(test) [4/4]  acc: 0.5000  [mean of the epoch]  time: 1.0000"
    assert list(values) == ["acc", "time"]


def test_a_metric_is_that_of_this_validation_and_times_are_of_its_batches():
    hub = make_hub(val__loss=[4.0, 2.0], val__time=[9.0, 1.0, 3.0])
    values, _ = LogProcessor().get_log_after_epoch(make_runner(hub), 2, "val")
    assert values == {"loss": 2.0, "time": 2.0}


def test_other_modes_and_unfinished_names_stay_out():
    hub = make_hub(train__loss=[1.0], training=[2.0], val__loss=[3.0])
    hub.scalar_updater("train/never")
    values, _ = LogProcessor().get_log_after_iter(make_runner(hub), 0, "train")
    assert list(values) == ["loss", "iter", "epoch"]


def test_results_that_are_no_scalars():
    hub = make_hub(val__acc=[0.5])
    hub.update_info("val/matrix", np.eye(2, dtype=int))
    values, line = LogProcessor().get_log_after_epoch(make_runner(hub), 3, "val")
    assert list(values) == ["acc"]
    assert "matrix: \n[[1 0]\n [0 1]]\n" in line
    values, _ = LogProcessor().get_log_after_epoch(make_runner(hub), 3, "val", with_non_scalar=True)
    assert list(values) == ["acc", "matrix"]


def test_learning_rates_by_group():
    few = make_hub(**{"train/lr": [0.1], "train/head.lr": [0.01], "train/loss_lr_free": [1.0]})
    _, line = LogProcessor().get_log_after_iter(make_runner(few), 0, "train")
    assert "lr: 1.0000e-01  head.lr: 1.0000e-02  [mean of 10]  loss_lr_free: 1.0000" in line
    many = make_hub(**{f"train/lr/{i}": [0.1 / (i + 1)] for i in range(10)})
    values, line = LogProcessor(num_digits=1).get_log_after_iter(make_runner(many), 0, "train")
    assert line.endswith("lr of 10 groups: 1.0e-02 to 1.0e-01")
    assert len(values) == 12


def test_small_numbers_are_not_shown_as_zero():
    hub = make_hub(train__loss=[3e-7], train__acc=[0.0])
    _, line = LogProcessor().get_log_after_iter(make_runner(hub), 0, "train")
    assert "acc: 0.0000  [mean of 10]  loss: 3.0000e-07" in line


def test_names_with_their_mode():
    hub = make_hub(val__acc=[0.5], val__time=[1.0])
    values, line = LogProcessor(log_with_hierarchy=True).get_log_after_epoch(make_runner(hub), 3, "val")
    assert values == {"val/acc": 0.5, "val/time": 1.0}
    assert "  acc: 0.5000" in line


def test_loaders_without_a_length():
    hub = make_hub(train__loss=[1.0])
    runner = make_runner(hub, num_batches=lambda mode: None, max_epochs=None)
    assert LogProcessor().get_log_after_iter(runner, 4, "train")[1].startswith("Epoch(train)[1][5/?]")
    runner.num_batches = lambda mode: 8
    assert LogProcessor().get_log_after_iter(runner, 4, "train")[1].startswith("Epoch(train)[1][5/8]")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(window_size=0), "window_size must be an int of at least 1, got 0"),
        (dict(num_digits=-1), "num_digits must be an int from 0 to 17, got -1"),
        (dict(custom_cfg=[dict(method_name="mean")]), r"custom_cfg\[0\] needs 'data_src'"),
        (dict(custom_cfg=[dict(data_src="loss")]), r"custom_cfg\[0\] needs 'method_name'"),
        (dict(custom_cfg=[dict(data_src="a", method_name="mean", window_size="all")]), "'epoch' or 'global', got 'all"),
        (dict(custom_cfg=[dict(data_src="a", method_name="mean", window_size=0)]), "got 0"),
        (dict(custom_cfg=[dict(data_src="a", method_name="mean", size=2)]), r"does not take \['size'\]"),
        (
            dict(by_epoch=False, custom_cfg=[dict(data_src="a", method_name="mean", window_size="epoch")]),
            "needs by_epoch=True",
        ),
        (
            dict(custom_cfg=[dict(data_src=x, method_name="mean", log_name="a") for x in "ab"]),
            r"custom_cfg\[1\] defines 'a' a second time",
        ),
    ],
)
def test_arguments_are_checked_when_it_is_built(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LogProcessor(**kwargs)


@pytest.mark.parametrize(("name", "hint"), [("maen", "Did you mean 'mean'"), ("xyz", "register_statistics")])
def test_statistics_are_checked_when_it_is_built(name, hint):
    with pytest.raises(UsageKeyError, match=f"no statistic '{name}'; there are current, max, mean, min.*{hint}"):
        LogProcessor(custom_cfg=[dict(data_src="loss", method_name=name)])


def test_modes_are_checked():
    runner = make_runner(make_hub())
    with pytest.raises(ValueError, match="train, val, test, got 'eval'"):
        LogProcessor().get_log_after_iter(runner, 0, "eval")


@pytest.mark.parametrize(
    ("losses", "shown", "label"),
    [
        ([4.0, math.nan, 2.0], 3.0, "mean of 3, 1 not finite left out"),
        ([1.0, math.inf, math.nan, 2.0], 2.0, "mean of 3, 2 not finite left out"),
        ([math.nan, 4.0, 3.0, 2.0], 3.0, "mean of 3"),
        ([4.0, 2.0, math.nan], math.nan, "mean of 3"),
        ([math.nan] * 4, math.nan, "mean of 3"),
    ],
)
def test_a_loss_that_was_not_finite_is_left_out_of_the_mean_when_training_has_gone_on(losses, shown, label):
    """One skipped batch made the logged loss NaN for a whole window."""
    runner = make_runner(make_hub(train__loss=losses, train__time=[0.5]), iter=3)
    values, line = LogProcessor(window_size=3).get_log_after_iter(runner, 3, "train")
    assert values["loss"] == pytest.approx(shown, nan_ok=True)
    assert f"[{label}]  loss: {shown:.4f}" in line
    assert values["time"] == 0.5
    assert "mean of" not in terminal_line(line)


def test_sums_over_counts_are_left_out_with_their_counts():
    hub = MessageHub("test")
    for value, count in ((6.0, 2), (math.nan, 5), (4.0, 3)):
        hub.update_scalar("train/loss", value, count)
    values, _ = LogProcessor().get_log_after_iter(make_runner(hub, iter=2), 2, "train")
    assert values["loss"] == 2.0
