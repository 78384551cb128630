"""One meaning of "stepped", for one optimizer and for several, whatever an update ends in."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lazyengine.hooks import ParamSchedulerHook
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, OptimWrapperDict, StepLR

pytestmark = pytest.mark.usefixtures("hub", "log_lines")
BAD = (1, 4)
KINDS = {"plain": OptimWrapper, "bfloat16": AmpOptimWrapper}


class Run:
    """What a hook sees of a runner: the wrapper, the schedulers and a loop that begins each iteration."""

    is_training = True

    def __init__(self, wrapper: Any, chains: Any) -> None:
        self.optim_wrapper, self.param_schedulers = wrapper, chains
        self.hook = ParamSchedulerHook()
        self.hook.before_train(self)  # type: ignore[arg-type]
        self.averaged = 0

    def iteration(self, step: Callable[[], None]) -> None:
        """Run one iteration as the loop does."""
        self.optim_wrapper.begin_iteration()
        step()
        self.averaged += self.optim_wrapper.stepped
        self.hook.after_train_iter(self, 0)  # type: ignore[arg-type]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def loss_of(model: nn.Module, iteration: int, bad: tuple[int, ...] = BAD) -> Tensor:
    return model(torch.ones(2, 3)).square().mean() * (math.nan if iteration in bad else 1.0)


def chain(wrapper: Any) -> StepLR:
    return StepLR(wrapper, 1, gamma=0.5, by_epoch=False)


def steps_of(scheduler: StepLR) -> int:
    return scheduler.last_step


@pytest.mark.parametrize("factory", KINDS.values(), ids=list(KINDS))
def test_a_skipped_update_steps_nothing_alone_and_in_a_dict(factory: Any) -> None:
    model, other = net(), net()
    alone = factory(torch.optim.SGD(model.parameters(), lr=1.0), nonfinite="skip")
    inside = factory(torch.optim.SGD(other.parameters(), lr=1.0), nonfinite="skip")
    first = Run(alone, [chain(alone)])
    second = Run(OptimWrapperDict(main=inside), {"main": [chain(inside)]})
    for iteration in range(6):
        first.iteration(lambda i=iteration: alone.update_params(loss_of(model, i)))
        second.iteration(lambda i=iteration: inside.update_params(loss_of(other, i)))
    for run, wrapper in ((first, alone), (second, inside)):
        scheduler = (run.param_schedulers["main"] if wrapper is inside else run.param_schedulers)[0]
        assert (wrapper.num_optimizer_steps, steps_of(scheduler), run.averaged) == (4, 4, 4)
        assert wrapper.get_lr() == {"lr": [0.5**4]}


def test_accumulation_counts_updates_that_were_made() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2, nonfinite="skip")
    run = Run(wrapper, [chain(wrapper), StepLR(wrapper, 1, by_epoch=False, count_iters=True)])
    for iteration in range(8):
        run.iteration(lambda i=iteration: wrapper.update_params(loss_of(model, i)))
    assert [steps_of(s) for s in run.param_schedulers] == [2, 8]
    assert (wrapper.num_optimizer_steps, run.averaged) == (2, 2)


@pytest.mark.parametrize("policy", ["raise", "skip", "ignore"])
def test_an_overflow_of_float16_steps_nothing(policy: str) -> None:
    model = net()
    wrapper = AmpOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), dtype="float16", loss_scale={"init_scale": 4.0}, nonfinite=policy
    )
    run = Run(wrapper, [chain(wrapper)])
    for iteration in range(6):
        handle = model.weight.register_hook(lambda grad, i=iteration: grad * (math.inf if i in BAD else 1.0))
        run.iteration(lambda: wrapper.update_params(loss_of(model, -1)))
        handle.remove()
    assert (wrapper.num_optimizer_steps, steps_of(run.param_schedulers[0]), run.averaged) == (4, 4, 4)
    assert wrapper.loss_scaler is not None
    assert wrapper.loss_scaler.get_scale() == 1.0


def test_an_optimizer_that_is_only_stepped_is_scheduled_too() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    wrappers = OptimWrapperDict(
        first=OptimWrapper(torch.optim.SGD(model[0].parameters(), lr=1e-2)),
        second=OptimWrapper(torch.optim.SGD(model[1].parameters(), lr=1e-2)),
    )
    run = Run(wrappers, {name: [chain(w)] for name, w in wrappers.items()})

    def step(iteration: int) -> None:
        wrappers["first"].backward(model(torch.ones(1, 3)).square().sum())
        wrappers["first"].step()
        if iteration % 2:
            wrappers["second"].step()
        wrappers.zero_grad()

    for iteration in range(6):
        run.iteration(lambda i=iteration: step(i))
    assert {name: steps_of(c[0]) for name, c in run.param_schedulers.items()} == {"first": 6, "second": 3}
    assert wrappers["second"].inner_count == 0


def test_an_update_of_several_in_one_iteration_is_one_that_stepped() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2), accumulative_counts=2)
    for iteration in range(3):
        wrapper.begin_iteration()
        assert not wrapper.stepped
        for _ in range(3):
            wrapper.update_params(loss_of(model, -1))
        assert wrapper.stepped, iteration


def test_by_hand_a_call_is_an_iteration() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2), accumulative_counts=2)
    assert wrapper.named() == {"": wrapper}
    seen = []
    for _ in range(4):
        wrapper.update_params(loss_of(model, -1))
        seen.append(wrapper.stepped)
    assert seen == [False, True, False, True]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("joint", [False, True])
def test_a_step_found_late_to_have_done_nothing_is_paid_for(accumulate: int, joint: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = [model[0].parameters(), model[1].parameters()] if joint else [model.parameters()]
    members = {
        str(i): OptimWrapper(
            torch.optim.SGD(parameters, lr=1e-2, fused=True),
            nonfinite="skip",
            accumulative_counts=accumulate,
        )
        for i, parameters in enumerate(groups)
    }
    for member in members.values():
        member._is_as_on_accelerator = True
    wrapper: Any = OptimWrapperDict(**members) if joint else members["0"]
    chains = {name: [chain(w)] for name, w in members.items()}
    run = Run(wrapper, chains if joint else chains["0"])
    for iteration in range(12 * accumulate):
        run.iteration(lambda i=iteration: wrapper.update_params(loss_of(model, i // accumulate, (3, 6, 7))))
    for name, member in members.items():
        assert member.num_optimizer_steps == 9 == steps_of(chains[name][0])
    assert run.averaged == 9


def test_what_is_owed_survives_a_resume() -> None:
    model = net()

    def build() -> OptimWrapper:
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2, fused=True), nonfinite="skip")
        wrapper._is_as_on_accelerator = True
        return wrapper

    wrapper = build()
    stepped = []
    for iteration in range(4):
        wrapper.begin_iteration()
        wrapper.update_params(loss_of(model, iteration, (3,)))
        stepped.append(wrapper.stepped)
    resumed = build()
    resumed.load_state_dict(wrapper.state_dict())
    assert resumed.num_optimizer_steps == 3
    for iteration in range(4, 6):
        resumed.begin_iteration()
        resumed.update_params(loss_of(model, iteration, (3,)))
        stepped.append(resumed.stepped)
    assert (sum(stepped), resumed.num_optimizer_steps) == (5, 5)


@pytest.mark.parametrize("counts", [(4, 10, -1), (4, 10, 16), (4, 9, 10)])
def test_flush_steps_what_waits_as_if_it_were_complete(counts: tuple[int, int, int]) -> None:
    accumulate, calls, announced = counts
    model, reference = net(), net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=accumulate)
    wrapper.initialize_count_status(model, 0, announced)
    plain = torch.optim.SGD(reference.parameters(), lr=0.1)
    for begin in range(0, calls, accumulate):
        window = range(begin, min(begin + accumulate, calls))
        for _ in window:
            wrapper.begin_iteration()
            wrapper.update_params(loss_of(model, -1))
        plain.zero_grad()
        sum(loss_of(reference, -1) / len(window) for _ in window).backward()  # type: ignore[union-attr]
        plain.step()
    assert not wrapper.at_step_boundary
    wrapper.flush()
    assert wrapper.stepped
    assert wrapper.at_step_boundary
    assert wrapper.num_optimizer_steps == 3
    torch.testing.assert_close(model.weight, reference.weight)
    wrapper.flush()
    assert wrapper.num_optimizer_steps == 3


def test_flush_reports_a_deferred_check() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2, fused=True))
    wrapper._is_as_on_accelerator = True
    wrapper.update_params(loss_of(model, 0))
    wrapper.update_params(loss_of(model, 1))
    with pytest.raises(NonFiniteError):
        wrapper.flush()
    assert wrapper.num_optimizer_steps == 1


def test_training_again_goes_on_with_whole_accumulations() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2), accumulative_counts=4)
    wrapper.initialize_count_status(model, 0, 10)
    for _ in range(10):
        wrapper.update_params(loss_of(model, -1))
    wrapper.flush()
    again = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2), accumulative_counts=4)
    again.load_state_dict(wrapper.state_dict())
    for each in (wrapper, again):  # in the same process, and resumed
        each.initialize_count_status(model, 10, 20)
        stepped = []
        for _ in range(10):
            each.update_params(loss_of(model, -1))
            stepped.append(each.stepped)
        assert [i for i, s in enumerate(stepped) if s] == [3, 7, 9]


def test_training_again_keeps_the_count_of_a_step_of_its_own() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-2), accumulative_counts=4)
    wrapper.initialize_count_status(model, 0, -1)
    for _ in range(6):  # two calls an iteration
        wrapper.update_params(loss_of(model, -1))
    wrapper.initialize_count_status(model, 3, -1)
    assert wrapper.inner_count == 6
    wrapper.update_params(loss_of(model, -1))
    wrapper.update_params(loss_of(model, -1))
    assert wrapper.num_optimizer_steps == 2
