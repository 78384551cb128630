"""What a scheduler promises besides its curve: arguments, positions, warnings, states."""

import copy
import inspect
import math
import pickle
from typing import Unpack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyengine.errors import UsageError
from lazyengine.optim.scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineRestartLR,
    ExponentialLR,
    LinearLR,
    LinearMomentum,
    LinearParamScheduler,
    MultiStepLR,
    OneCycleLR,
    OneCycleParamScheduler,
    PolyLR,
    ReduceOnPlateauLR,
    SchedulerOptions,
    StepLR,
    _ParamScheduler,
)


def sgd(*lrs, **kwargs):
    lrs = lrs or (0.1,)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, lr=lrs[0], momentum=0.9, **kwargs)


def run(optimizer, chain, steps):
    optimizer.step()
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        for scheduler in chain:
            scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return values


# ---- curves as written on paper


def test_warm_up_then_cosine_by_epoch_and_by_iteration_follow_the_formula():
    epochs, length, warm, base = 20, 7, 3, 0.4
    by_iter = sgd(base)
    total, first = epochs * length, warm * length
    chain = [
        LinearLR.build_iter_from_epoch(by_iter, start_factor=0.1, end=warm, epoch_length=length),
        CosineAnnealingLR.build_iter_from_epoch(by_iter, begin=warm, end=epochs, epoch_length=length),
    ]
    for t, lr in enumerate(run(by_iter, chain, total - 1)):
        if t < first:
            expected = base * (0.1 + 0.9 * t / (first - 1))
        else:
            expected = base * (1 + math.cos(math.pi * (t - first) / (total - first))) / 2
        assert lr == pytest.approx(expected, rel=1e-10), t
    by_epoch = sgd(base)
    chain = [LinearLR(by_epoch, start_factor=0.1, end=warm), CosineAnnealingLR(by_epoch, begin=warm, end=epochs)]
    for t, lr in enumerate(run(by_epoch, chain, epochs - 1)):
        if t < warm:
            expected = base * (0.1 + 0.9 * t / (warm - 1))
        else:
            expected = base * (1 + math.cos(math.pi * (t - warm) / (epochs - warm))) / 2
        assert lr == pytest.approx(expected, rel=1e-10), t


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.01, 2), st.integers(2, 60), st.floats(0.01, 1), st.floats(0, 1), st.floats(0.5, 2), st.floats(0.8, 1.0)
)
def test_docstring_formulas_hold_for_every_step(base, n, start, end_factor, power, gamma):
    expected = {
        LinearLR: ({"start_factor": start, "end_factor": end_factor},
                   lambda t: base * (start + (end_factor - start) * t / (n - 1))),
        PolyLR: ({"power": power, "eta_min": 0.001},
                 lambda t: 0.001 + (base - 0.001) * (1 - t / (n - 1)) ** power),
        ExponentialLR: ({"gamma": gamma}, lambda t: base * gamma**t),
        CosineAnnealingLR: ({"eta_min": 0.001},
                            lambda t: 0.001 + (base - 0.001) * (1 + math.cos(math.pi * t / n)) / 2),
        ConstantLR: ({"factor": start}, lambda t: base * (start if t < n - 1 else 1.0)),
        StepLR: ({"step_size": 3, "gamma": gamma}, lambda t: base * gamma ** (t // 3)),
        MultiStepLR: ({"milestones": [0, 4, 4, 9], "gamma": gamma},
                      lambda t: base * gamma ** sum(m <= t for m in (0, 4, 4, 9))),
        CosineRestartLR: ({"periods": [n], "restart_weights": [0.5], "eta_min": 0.0},
                          lambda t: base * 0.5 * (1 + math.cos(math.pi * t / n)) / 2),
    }  # fmt: skip
    for cls, (kwargs, formula) in expected.items():
        optimizer = sgd(base)
        for t, lr in enumerate(run(optimizer, [cls(optimizer, end=n, **kwargs)], n - 1)):
            assert lr == pytest.approx(formula(t), rel=1e-7, abs=1e-9), (cls.__name__, t)


def test_warm_up_from_zero_and_constant_zero():
    optimizer = sgd(0.5)
    assert run(optimizer, [LinearLR(optimizer, start_factor=0.0, end=6)], 6) == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    )
    optimizer = sgd(0.5)
    assert run(optimizer, [ConstantLR(optimizer, factor=0.0, end=3)], 3) == [0.0, 0.0, 0.5, 0.5]


def test_one_cycle_holds_its_floor_past_the_cycle():
    optimizer = sgd(0.1)
    values = run(optimizer, [OneCycleLR(optimizer, eta_max=1.0, total_steps=10, pct_start=0.1)], 15)
    assert values[0] == 1.0  # a rise of length zero starts at the top
    assert values[9:] == pytest.approx([1.0 / 25 / 1e4] * 7)


def test_overlap_multiplies_and_gap_leaves_the_value_alone():
    optimizer = sgd(1.0)
    chain = [ExponentialLR(optimizer, gamma=0.5, end=3), StepLR(optimizer, step_size=1, gamma=0.1, begin=1, end=3)]
    assert run(optimizer, chain, 5) == pytest.approx([1.0, 0.5, 0.025, 0.025, 0.025, 0.025])


def test_several_groups_keep_their_ratio():
    optimizer = sgd(0.1, 0.01)
    scheduler = CosineAnnealingLR(optimizer, end=10, eta_min_ratio=0.1)
    optimizer.step()
    for _ in range(9):
        scheduler.step()
        first, second = scheduler.get_last_value()
        assert first == pytest.approx(10 * second)


# ---- where the value is written


def test_momentum_of_an_optimizer_with_betas_is_the_first_beta():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], betas=(0.8, 0.95))
    chain = [
        LinearMomentum(optimizer, start_factor=0.5, end=3),
        LinearMomentum(optimizer, start_factor=0.5, begin=3, end=5),
    ]
    assert chain[1].base_values == [0.8]
    optimizer.step()
    seen = [optimizer.param_groups[0]["betas"]]
    for _ in range(2):
        for scheduler in chain:
            scheduler.step()
        seen.append(optimizer.param_groups[0]["betas"])
    assert seen == [pytest.approx((v, 0.95)) for v in (0.4, 0.6, 0.8)]
    assert optimizer.param_groups[0]["momentum"] == optimizer.param_groups[0]["betas"][0]


def test_a_tensor_lr_stays_the_same_tensor():
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    assert scheduler.state_dict()["_last_value"] == [0.25]


def test_any_option_can_be_scheduled_and_a_missing_one_is_named():
    optimizer = sgd(weight_decay=0.2)
    LinearParamScheduler(optimizer, "weight_decay", start_factor=0.5, end=4)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["initial_weight_decay"] == 0.2
    with pytest.raises(KeyError, match=r"no 'betta' to schedule · it has .*'lr'"):
        LinearParamScheduler(optimizer, "betta", end=4)


def test_a_subclass_needs_only_get_value():
    class Halving(_ParamScheduler):
        def _get_value(self):
            return [group["lr"] / 2 for group in self.optimizer.param_groups]

    optimizer = sgd(1.0)
    Halving(optimizer, "lr", 0, 3)
    assert optimizer.param_groups[0]["lr"] == 0.5


# ---- signatures and checks


def test_signatures_have_mmengines_order_and_options_by_name():
    assert list(inspect.signature(CosineAnnealingLR).parameters) == [
        "optimizer",
        "T_max",
        "eta_min",
        "eta_min_ratio",
        "options",
    ]
    general = list(inspect.signature(LinearParamScheduler).parameters)
    assert general == ["optimizer", "param_name", "start_factor", "end_factor", "options"]
    for signature in (inspect.signature(LinearLR, eval_str=True), inspect.signature(LinearParamScheduler)):
        assert signature.parameters["options"].annotation == Unpack[SchedulerOptions]
    shared = set(inspect.signature(_ParamScheduler).parameters) - {"optimizer", "param_name"}
    assert set(SchedulerOptions.__annotations__) == shared
    for form in (LinearLR, LinearParamScheduler):
        assert "start_factor: In [0, 1]" in form.__doc__
    assert "the learning rate" in LinearLR.__doc__


@pytest.mark.parametrize(("name", "near"), [("edn", "end"), ("start_facto", "start_factor"), ("by_epochs", "by_epoch")])
def test_a_name_that_is_not_known_is_refused_with_the_near_one(name, near):
    for build in (LinearLR, lambda o, **k: LinearParamScheduler(o, "lr", **k)):
        with pytest.raises(TypeError, match=rf"has no argument '{name}'.*Did you mean '{near}'\?"):
            build(sgd(), end=5, **{name: 1})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda o: LinearLR(o, begin=5, end=5), "0 <= begin < end, got begin=5, end=5"),
        (lambda o: LinearLR(o, begin=-1, end=5), "got begin=-1"),
        (lambda o: LinearLR(o, start_factor=1.5, end=5), r"start_factor must lie in \[0, 1\], got 1.5"),
        (lambda o: LinearLR(o, end_factor=-0.1, end=5), "end_factor must lie"),
        (lambda o: ConstantLR(o, factor=2), "factor must lie"),
        (lambda o: LinearLR(o), "no end given"),
        (lambda o: PolyLR(o), "no end given"),
        (lambda o: CosineAnnealingLR(o), "no end or T_max given"),
        (lambda o: CosineAnnealingLR(o, T_max=0), "T_max must be positive"),
        (lambda o: CosineAnnealingLR(o, 9, eta_min=0.1, eta_min_ratio=0.1), "not both"),
        (lambda o: CosineRestartLR(o, [5, 5]), "2 periods and 1 restart_weights"),
        (lambda o: CosineRestartLR(o, [0]), "periods must be positive"),
        (lambda o: StepLR(o, 0), "step_size must be positive"),
        (lambda o: OneCycleLR(o, 0.1), "no end or total_steps given"),
        (lambda o: OneCycleLR(o, [0.1, 0.2], total_steps=5), "one value for each of the 1 groups, got 2"),
        (lambda o: OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="cosine"), "'cos' or 'linear', got 'cosine'"),
        (lambda o: OneCycleLR(o, 0.1, total_steps=5, pct_start=1.5), "pct_start must lie"),
        (lambda o: OneCycleLR(o, 0.1, total_steps=-5), "positive int, got -5"),
        (lambda o: OneCycleParamScheduler(o, "momentum", total_steps=5), "the learning rate only"),
        (lambda o: ReduceOnPlateauLR(o, factor=1.0), "factor must lie"),
        (lambda o: ReduceOnPlateauLR(o, rule="min"), "'less' or 'greater', got 'min'"),
        (lambda o: ReduceOnPlateauLR(o, threshold_rule="x"), "threshold_rule"),
        (lambda o: ReduceOnPlateauLR(o, threshold=-1), "threshold must be"),
        (lambda o: ReduceOnPlateauLR(o, min_value=[0.1, 0.1]), "min_value needs one value"),
        (lambda o: LinearLR(o, end=5, last_step=-2), "last_step must be"),
        (lambda o: LinearLR(o, end=5, count_iters=True), "count_iters=True needs by_epoch=False"),
        (lambda o: LinearLR(o, end=5, convert_to_iter_based=True), "needs a positive epoch_length, got None"),
        (
            lambda o: LinearLR.build_iter_from_epoch(o, end=5, epoch_length=9, by_epoch=False),
            "by_epoch=False was given",
        ),
    ],
)
def test_bad_arguments_are_refused_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build(sgd())


def test_an_optimizer_is_needed():
    with pytest.raises(TypeError, match=r"OptimWrapper or a torch.optim.Optimizer, got dict · give a dict of lists"):
        LinearLR({"a": sgd()}, end=3)
    with pytest.raises(TypeError, match="got int"):
        LinearLR(3, end=3)


def test_a_warm_up_of_one_step_warns_because_it_never_ends():
    with pytest.warns(UserWarning, match="LinearLR acts for one step only"):
        LinearLR(sgd(), begin=0, end=1)
    with pytest.warns(UserWarning, match="ConstantLR acts for one step only"):
        ConstantLR(sgd(), begin=0, end=1)


def test_last_step_resumes_without_a_state():
    with pytest.raises(KeyError, match="no 'initial_lr'"):
        StepLR(sgd(), 3, last_step=4)
    optimizer = sgd(1.0)
    optimizer.param_groups[0].update(initial_lr=1.0, lr=0.1)
    scheduler = StepLR(optimizer, 3, last_step=4)
    assert scheduler.last_step == 5
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_conversion_rounds_fractions_of_an_epoch():
    optimizer = sgd()
    scheduler = StepLR.build_iter_from_epoch(optimizer, step_size=1.5, begin=0.29, end=2, epoch_length=100)
    assert (scheduler.begin, scheduler.end, scheduler.step_size, scheduler.by_epoch) == (29, 200, 150, False)


def test_the_optimizer_stays_picklable_and_unpatched():
    optimizer = sgd()
    step = type(optimizer).step
    schedulers = [StepLR(optimizer, 3), ExponentialLR(optimizer, 0.9)]
    pickle.loads(pickle.dumps(optimizer))
    copy.deepcopy(optimizer)
    optimizer.step()
    for scheduler in schedulers:
        scheduler.step()
    assert type(optimizer).step is step
    assert "step" not in vars(optimizer)
    assert not optimizer._optimizer_step_post_hooks


# ---- plateau


def test_plateau_names_the_metric_that_is_missing():
    optimizer = sgd()
    scheduler = ReduceOnPlateauLR(optimizer, monitor="acuracy", rule="greater")
    with pytest.raises(UsageError, match=r"no metric is named 'acuracy'.*Did you mean 'accuracy'"):
        scheduler.step({"accuracy": 1.0, "loss": 2.0})
    scheduler = ReduceOnPlateauLR(optimizer, monitor="top1", rule="greater")
    with pytest.raises(UsageError, match="'top1' is ambiguous: it matches a/top1, b/top1"):
        scheduler.step({"a/top1": 1.0, "b/top1": 2.0})
    with pytest.raises(TypeError, match="must be a dict"):
        scheduler.step(0.5)


def test_plateau_acts_between_begin_and_end_only():
    optimizer = sgd(1.0)
    scheduler = ReduceOnPlateauLR(optimizer, patience=0, factor=0.5, begin=2, end=4)
    values = []
    for _ in range(6):
        scheduler.step({"loss": 1.0})
        values.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert values == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_plateau_knows_the_rule_by_the_name_of_the_metric():
    for monitor, rule in {"loss": "less", "val/accuracy": "greater", "mIoU": "greater"}.items():
        assert ReduceOnPlateauLR(sgd(), monitor=monitor).rule == rule
    assert ReduceOnPlateauLR(sgd(), monitor="accuracy", rule="less").rule == "less"
    with pytest.raises(ValueError, match="set rule="):
        ReduceOnPlateauLR(sgd(), monitor="value")


@pytest.mark.parametrize(("monitor", "value"), [("accuracy", math.inf), ("loss", -math.inf), ("loss", math.nan)])
def test_plateau_takes_no_infinite_metric_for_the_best(monitor, value):
    scheduler = ReduceOnPlateauLR(sgd(1.0), monitor=monitor, patience=1, factor=0.5)
    for metric in (0.5, value, 0.4, 0.6):
        scheduler.step({monitor: metric})
    assert math.isfinite(scheduler.best)
    assert scheduler.best == (0.6 if monitor == "accuracy" else 0.4)
