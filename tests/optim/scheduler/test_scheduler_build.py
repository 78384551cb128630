"""Building a run's schedulers: what recipes leave open is filled in, what does not fit is refused."""

from types import SimpleNamespace

import pytest
import torch

from lazyengine.config import ConfigError, instantiate
from lazyengine.config import LazyCall as L
from lazyengine.optim.scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LinearParamScheduler,
    MultiStepLR,
    ReduceOnPlateauLR,
    SchedulerRecipes,
    StepLR,
    build_param_schedulers,
)


class Recipe:
    """Like `lazyengine.config.Lazy`: what the config gave is visible, the call builds once."""

    def __init__(self, target, **arguments):
        self.target, self.arguments, self.path = target, arguments, f"param_schedulers[{target.__name__}]"
        self.built = None

    def __call__(self, **kwargs):
        assert not set(kwargs) & set(self.arguments)
        self.built = self.built or self.target(**self.arguments, **kwargs)
        return self.built


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def wrapper(accumulative_counts=1):
    inner = sgd()
    return SimpleNamespace(
        optimizer=inner, param_groups=inner.param_groups, num_optimizer_steps=0, accumulative_counts=accumulative_counts
    )


def build(recipes, optimizer, max_epochs=10, max_iters=1050, epoch_length=105):
    return build_param_schedulers(
        recipes, optimizer, max_epochs=max_epochs, max_iters=max_iters, epoch_length=epoch_length
    )


def test_what_begins_after_a_short_run_never_acts():
    optimizer = sgd()
    warm_up, cosine = build(
        [Recipe(LinearLR, start_factor=0.5, end=8, by_epoch=False), Recipe(CosineAnnealingLR, begin=8, by_epoch=False)],
        optimizer,
        max_epochs=1,
        max_iters=5,
        epoch_length=5,
    )
    lrs = []
    for _ in range(5):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm_up.step()
        cosine.step()
    assert lrs == pytest.approx([0.1 * (0.5 + 0.5 * t / 7) for t in range(5)])


def test_a_missing_end_is_the_length_of_the_run_in_the_unit_that_is_counted():
    optim_wrapper = wrapper(accumulative_counts=2)
    by_epoch, by_step, by_iter, converted, given, plateau = build(
        [
            Recipe(CosineAnnealingLR),
            Recipe(CosineAnnealingLR, by_epoch=False),
            Recipe(CosineAnnealingLR, by_epoch=False, count_iters=True),
            Recipe(CosineAnnealingLR, convert_to_iter_based=True, begin=1),
            Recipe(LinearLR, end=7, by_epoch=False),
            Recipe(ReduceOnPlateauLR),
        ],
        optim_wrapper,
    )
    assert (by_epoch.end, by_epoch.T_max) == (10, 10)
    assert (by_step.end, by_iter.end) == (525, 1050)
    assert (converted.begin, converted.end, converted.T_max) == (52, 525, 473)  # 52.5 steps an epoch
    assert given.end == 7
    assert plateau.end == 10
    assert all(s.optimizer is optim_wrapper for s in (by_epoch, by_step, by_iter, converted, given, plateau))


def test_convert_to_iter_based_with_iterations_counted():
    (scheduler,) = build(
        Recipe(MultiStepLR, milestones=[2, 4], convert_to_iter_based=True, count_iters=True),
        wrapper(accumulative_counts=4),
    )
    assert (scheduler.milestones, scheduler.end) == ([210, 420], 1050)


def test_one_recipe_none_or_a_built_scheduler():
    optim_wrapper = wrapper()
    assert build(None, optim_wrapper) == []
    assert build([], optim_wrapper) == []
    built = StepLR(optim_wrapper.optimizer, 3)
    assert build(built, optim_wrapper) == [built]
    (scheduler,) = build(Recipe(StepLR, step_size=3), sgd())
    assert scheduler.end == 10


def test_a_loop_by_iterations():
    (scheduler,) = build(Recipe(CosineAnnealingLR, by_epoch=False), sgd(), max_epochs=None, epoch_length=None)
    assert scheduler.end == 1050
    (scheduler,) = build(Recipe(CosineAnnealingLR, convert_to_iter_based=True), sgd(), max_epochs=None)
    assert scheduler.end == 1050
    build(Recipe(ReduceOnPlateauLR), sgd(), max_epochs=None, epoch_length=None)
    with pytest.raises(ValueError, match=r"counts epochs \(by_epoch=True\), but the run counts iterations") as caught:
        build(Recipe(CosineAnnealingLR), sgd(), max_epochs=None, epoch_length=None)
    assert "while building the scheduler at param_schedulers[CosineAnnealingLR]" in caught.value.__notes__
    with pytest.raises(ValueError, match="needs a positive epoch_length, got None"):
        build(Recipe(StepLR, step_size=3, convert_to_iter_based=True), sgd(), epoch_length=None)


def test_errors_name_the_recipe():
    with pytest.raises(ValueError, match="begin=12, end=10") as caught:
        build(Recipe(LinearLR, begin=12, end=10), sgd())
    assert "param_schedulers[LinearLR]" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match=r"expected a recipe or a scheduler, got {'type': 'LinearLR'}"):
        build([{"type": "LinearLR"}], sgd())
    with pytest.raises(TypeError, match=r"torch.optim.lr_scheduler.StepLR makes no scheduler of lazyengine.optim"):
        build(Recipe(torch.optim.lr_scheduler.StepLR, step_size=2), sgd())


def test_a_scheduler_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="schedules an optimizer that is not this run's"):
        build(StepLR(sgd(), 3), wrapper())


def test_several_optimizers():
    wrappers = {"generator": wrapper(), "discriminator": wrapper(2)}
    found = build({"generator": [Recipe(CosineAnnealingLR)], "discriminator": Recipe(StepLR, step_size=3)}, wrappers)
    assert [s.optimizer for chain in found.values() for s in chain] == list(wrappers.values())
    found = build({"generator": [Recipe(CosineAnnealingLR)]}, wrappers)
    assert found["discriminator"] == []
    with pytest.raises(ValueError, match=r"has 'generater', .* Did you mean 'generator'"):
        build({"generater": []}, wrappers)
    with pytest.raises(ValueError, match="there is one optimizer · give a list"):
        build({"generator": []}, wrapper())


def test_one_list_serves_every_optimizer():
    wrappers = {"generator": wrapper(), "discriminator": wrapper(2)}
    found = build([Recipe(StepLR, step_size=3, by_epoch=False)], wrappers)
    assert [found[name][0].optimizer for name in wrappers] == list(wrappers.values())
    assert [found[name][0].end for name in wrappers] == [1050, 525]
    with pytest.raises(ValueError, match="names one optimizer, but its list serves several"):
        build([Recipe(StepLR, step_size=3, optimizer=wrappers["generator"])], wrappers)


def test_recipes_of_a_config():
    def parameters():
        return [torch.nn.Parameter(torch.zeros(1))]

    def run(optimizer: torch.optim.Optimizer, schedulers: SchedulerRecipes = None):
        many = {"a": optimizer, "b": sgd()} if isinstance(schedulers, dict) else optimizer
        return build(schedulers, many)

    optimizer = L(torch.optim.SGD)(params=L(parameters)(), lr=0.1)
    warm_up = L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=1, convert_to_iter_based=True)
    first, second = instantiate(L(run)(optimizer=optimizer, schedulers=[warm_up, L(StepLR)(step_size=3)]))
    assert (first.end, second.end) == (105, 10)
    assert first.optimizer is second.optimizer
    found = instantiate(L(run)(optimizer=optimizer, schedulers={"a": warm_up, "b": [L(StepLR)(step_size=3)]}))
    assert [type(chain[0]) for chain in found.values()] == [LinearLR, StepLR]
    with pytest.raises(ConfigError, match="Did you mean 'start_factor'"):
        L(LinearLR)(start_facto=0.1)
    with pytest.raises(ConfigError, match="Did you mean 'param_name'"):
        L(LinearParamScheduler)(param_nam="weight_decay")
