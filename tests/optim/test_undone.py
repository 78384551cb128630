"""A rejected update leaves nothing behind: statistics of BatchNorm, and what a closure has already changed."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lazyengine.nesting import iter_leaves
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, OptimWrapperDict

pytestmark = pytest.mark.usefixtures("hub", "log_lines")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def batch(iteration: int, bad: tuple[int, ...] = ()) -> Tensor:
    return torch.sin(torch.arange(12.0) + iteration).reshape(4, 3) * (math.nan if iteration in bad else 1.0)


def run(model: nn.Module, wrapper: Any, iterations: Any, bad: tuple[int, ...] = (), by_hand: bool = False) -> None:
    for iteration in iterations:
        if not by_hand:
            wrapper.begin_iteration()
        with wrapper.optim_context(model):
            loss = model(batch(iteration, bad)).square().mean()
        wrapper.update_params(loss)


def sgd(model: nn.Module, **options: Any) -> OptimWrapper:
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), nonfinite="skip", **options)
    wrapper.initialize_count_status(model, 0, -1)
    return wrapper


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_are_those_of_the_updates_that_were_made(accumulate: int) -> None:
    model, reference = net(), net()
    run(model, sgd(model, accumulative_counts=accumulate), range(6), bad=(2,))
    good = [i for i in range(6) if i // accumulate != 2 // accumulate]
    run(reference, sgd(reference, accumulative_counts=accumulate), good)
    assert_same(model, reference)


def test_without_a_loop_the_context_of_the_forward_pass_keeps_them() -> None:
    model, reference = net(), net()
    run(model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), nonfinite="skip"), range(4), (1,), True)
    run(reference, sgd(reference), (0, 2, 3))
    assert_same(model, reference)


def test_a_check_that_is_read_late() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, fused=True), nonfinite="skip")
    wrapper._is_as_on_accelerator = True
    wrapper.initialize_count_status(model, 0, -1)
    run(model, wrapper, range(8), bad=(2, 3, 6))
    wrapper.flush()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert wrapper.num_optimizer_steps == 5
    assert model[1].num_batches_tracked <= 5  # the batch behind a bad one goes with it


def test_a_buffer_that_is_assigned_anew() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 1)
            self.register_buffer("center", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            self.center = 0.9 * self.center + 0.1 * y.detach().mean(0)
            return y - self.center

    torch.manual_seed(0)
    model = Centred()
    reference = copy.deepcopy(model)
    run(model, sgd(model), range(4), bad=(1,))
    run(reference, sgd(reference), (0, 2, 3))
    assert_same(model, reference)


def test_a_resume_within_a_bad_accumulation() -> None:
    model = net()
    wrapper = sgd(model, accumulative_counts=3)
    run(model, wrapper, range(3))
    before = copy.deepcopy(model.state_dict())
    run(model, wrapper, (3, 4), bad=(4,))
    other = net()
    other.load_state_dict(model.state_dict())
    resumed = OptimWrapper(torch.optim.SGD(other.parameters(), lr=0.1), nonfinite="skip", accumulative_counts=3)
    resumed.load_state_dict(wrapper.state_dict())
    resumed.initialize_count_status(other, 5, -1)
    run(other, resumed, (5,))
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_other_policies_keep_nothing() -> None:
    model = net()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.initialize_count_status(model, 0, -1)
    with pytest.raises(NonFiniteError):
        run(model, wrapper, range(2), bad=(1,))
    assert torch.isnan(model[1].running_mean).all()


# ---------------------------------------------------------------------- closures
class Sam(torch.optim.SGD):
    """Sharpness-aware minimization by a closure: steps up, evaluates, steps back and down."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        moved = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    up = parameter.grad * 0.05
                    parameter.add_(up)
                    moved.append((parameter, up))
                    self.state[parameter]["evaluations"] = self.state[parameter].get("evaluations", 0) + 1
        with torch.enable_grad():
            closure()
        for parameter, up in moved:
            parameter.sub_(up)
        super().step()
        return loss


OPTIMIZERS = {
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
    "LBFGS wolfe": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3, line_search_fn="strong_wolfe"),
    "SAM": lambda p: Sam(p, lr=0.1, momentum=0.9),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


def step_by_closure(model: nn.Module, wrapper: OptimWrapper, bad_at: int | None, kind: str = "loss") -> None:
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        wrapper.optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        if calls == bad_at:
            loss = loss * math.nan if kind == "loss" else loss + torch.sqrt(next(model.parameters())[0, 0] * 0)
        calls += 1
        loss.backward()
        return loss

    wrapper.update_params(model(torch.ones(2, 3)).square().mean(), step_kwargs={"closure": closure})


@pytest.mark.seam(15, "LBFGS", "SAM", "SGD", "AMP", "skip", "raise")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("factory", [OptimWrapper, AmpOptimWrapper])
def test_a_closure_that_is_not_finite_changes_nothing(name: str, policy: str, kind: str, factory: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapper = factory(OPTIMIZERS[name](list(model.named_parameters())), nonfinite=policy)
    step_by_closure(model, wrapper, None)
    before = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(wrapper.optimizer.state_dict())
    bad_at = 1 if name in ("LBFGS", "SAM") else 0
    if policy == "raise":
        with pytest.raises(NonFiniteError, match="in evaluation"):
            step_by_closure(model, wrapper, bad_at, kind)
    else:
        step_by_closure(model, wrapper, bad_at, kind)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    after = dict(iter_leaves(wrapper.optimizer.state_dict()))
    assert after.keys() == dict(iter_leaves(state)).keys()
    for path, value in iter_leaves(state):
        assert torch.equal(after[path], value) if isinstance(value, Tensor) else after[path] == value, path
    assert wrapper.num_optimizer_steps == 1
    step_by_closure(model, wrapper, None)
    assert wrapper.num_optimizer_steps == 2
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_ignore_looks_at_no_closure_either() -> None:
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), nonfinite="ignore")
    step_by_closure(model, wrapper, 0)
    assert any(torch.isnan(p).any() for p in model.parameters())


def test_clipping_reaches_what_a_closure_computes() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    reference = copy.deepcopy(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), clip_grad={"max_norm": 1e-2})
    step_by_closure(model, wrapper, None)
    reference(torch.ones(2, 3)).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1e-2)
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    torch.testing.assert_close(model.weight, reference.weight)


def test_a_closure_does_not_go_with_a_loss_scale_or_with_a_joint_loss() -> None:
    model = nn.Linear(3, 1)
    half = AmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), dtype="float16")
    with pytest.raises(TypeError, match="closure"):
        step_by_closure(model, half, None)
    several = OptimWrapperDict(a=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(TypeError, match="closure"):
        several.update_params(model(torch.ones(2, 3)).sum(), step_kwargs={"closure": lambda: None})
