"""Schedulers on the real optimizer wrappers."""

import pytest
import torch

from lazyengine.config import LazyCall as L
from lazyengine.config import instantiate
from lazyengine.optim import (
    CosineAnnealingMomentum,
    LinearLR,
    OptimWrapper,
    OptimWrapperDict,
    SchedulerRecipes,
    StepLR,
    build_param_schedulers,
    param_schedulers_state_dict,
    resume_param_schedulers,
)


def wrapper(accumulative_counts=1, lr=0.1):
    parameter = torch.nn.Parameter(torch.ones(2))
    return OptimWrapper(torch.optim.AdamW([parameter], lr=lr), accumulative_counts=accumulative_counts), parameter


def train(optim_wrapper, parameter, chain, iterations, done=0):
    """Train as a run does: schedulers follow the optimizer's steps; return the lr that each iteration trains with."""
    curve = []
    for _ in range(iterations):
        curve.append(optim_wrapper.get_lr()["lr"][0])
        before = optim_wrapper.num_optimizer_steps
        optim_wrapper.update_params((parameter**2).sum())
        for scheduler in chain:
            if scheduler.count_iters or optim_wrapper.num_optimizer_steps > before:
                scheduler.step()
    return curve


def test_accumulation_does_not_run_the_schedule_ahead():
    optim_wrapper, parameter = wrapper(accumulative_counts=2)
    chain = build_param_schedulers(
        StepLR(optim_wrapper, 1, gamma=0.5, by_epoch=False), optim_wrapper, max_epochs=1, max_iters=6, epoch_length=6
    )
    assert train(optim_wrapper, parameter, chain, 6) == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    optim_wrapper, parameter = wrapper(accumulative_counts=2)
    chain = [StepLR(optim_wrapper, 1, gamma=0.5, by_epoch=False, count_iters=True)]
    assert train(optim_wrapper, parameter, chain, 3) == [0.1, 0.05, 0.025]


def test_the_end_counts_the_wrappers_steps():
    def run(optim_wrapper: OptimWrapper, schedulers: SchedulerRecipes):
        return build_param_schedulers(schedulers, optim_wrapper, max_epochs=3, max_iters=30, epoch_length=10)

    optim_wrapper, _ = wrapper(accumulative_counts=4)
    steps, converted = instantiate(
        L(run)(
            optim_wrapper=optim_wrapper,
            schedulers=[L(LinearLR)(by_epoch=False), L(LinearLR)(end=2, convert_to_iter_based=True)],
        )
    )
    assert (steps.end, converted.end) == (8, 5)


def test_several_wrappers():
    first, second = wrapper()[0], wrapper(lr=0.3)[0]
    many = OptimWrapperDict(generator=first, discriminator=second)
    chains = build_param_schedulers(
        {"generator": [StepLR(first, 2)], "discriminator": []}, many, max_epochs=3, max_iters=30, epoch_length=10
    )
    assert list(chains) == ["generator", "discriminator"]
    with pytest.raises(TypeError, match="got OptimWrapperDict · give a dict of lists"):
        StepLR(many, 2)


def test_momentum_is_what_the_wrapper_reports():
    optim_wrapper, _ = wrapper()
    scheduler = CosineAnnealingMomentum(optim_wrapper, end=2)
    assert optim_wrapper.get_momentum()["momentum"] == [0.9]
    optim_wrapper.step()
    scheduler.step()
    assert optim_wrapper.get_momentum()["momentum"] == [pytest.approx(0.45)]


def test_resumed_with_a_longer_warm_up():
    optim_wrapper, parameter = wrapper()
    chain = [LinearLR(optim_wrapper, 0.1, end=11, by_epoch=False)]
    train(optim_wrapper, parameter, chain, 5)
    resumed, new_parameter = wrapper()
    new_chain = [LinearLR(resumed, 0.1, end=21, by_epoch=False)]
    resumed.load_state_dict(optim_wrapper.state_dict())
    changes = resume_param_schedulers(new_chain, param_schedulers_state_dict(chain), num_optimizer_steps=5)
    assert changes == ["LinearLR.end: 11 -> 21"]
    curve = train(resumed, new_parameter, new_chain, 3)
    assert curve == pytest.approx([0.1 * (0.1 + 0.9 * t / 20) for t in (5, 6, 7)])
