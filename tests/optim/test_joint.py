"""One loss and several optimizers: one backward pass, one clipping, one check, and every optimizer steps."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lazyengine.errors import UsageRuntimeError
from lazyengine.logging import MessageHub
from lazyengine.model import train_step
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, OptimWrapperDict, param_groups

pytestmark = pytest.mark.usefixtures("hub", "log_lines")


class Net(nn.Module):
    """Matrices and the rest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        return {"loss": self.last(self.norm(self.first(x)).relu()).square().mean()}


def batch(iteration: int) -> Tensor:
    return torch.cos(torch.arange(24.0) * (0.3 + 0.1 * iteration)).reshape(6, 4)


def parts(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return matrices, [p for p in model.parameters() if p.ndim != 2]


def build(model: nn.Module, factory: Any = OptimWrapper, other: dict[str, Any] | None = None, **options: Any) -> Any:
    matrices, rest = parts(model)
    return OptimWrapperDict(
        muon=factory(torch.optim.Muon(matrices, lr=0.02), **options),
        adamw=factory(torch.optim.AdamW(rest, lr=1e-2), **{**options, **(other or {})}),
    )


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.seam(4, "accumulation", "default train_step")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_default_step_is_the_plain_loop_to_the_bit(accumulate: int, hub: MessageHub) -> None:
    model, reference = Net(), Net()
    wrappers = build(model, accumulative_counts=accumulate, clip_grad={"max_norm": 0.1})
    wrappers.initialize_count_status(model, 0, 8)
    matrices, rest = parts(reference)
    plain = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=1e-2)]
    for iteration in range(8):
        wrappers.begin_iteration()
        outputs = train_step(model, batch(iteration), wrappers)
        assert set(outputs) == {"loss"}
        window = 2 if accumulate == 3 and iteration >= 6 else accumulate
        (reference(batch(iteration))["loss"] / window).backward()
        due = (iteration + 1) % accumulate == 0 or iteration == 7
        assert (wrappers.stepped, wrappers.at_step_boundary) == (due, due)
        assert {w.stepped for w in wrappers.values()} == {due}
        if due:
            norm = torch.nn.utils.clip_grad_norm_([*matrices, *rest], 0.1)
            assert hub.get_scalar("train/grad_norm").current() == pytest.approx(norm.item(), rel=1e-6)
            for optimizer in plain:
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert [w.num_optimizer_steps for w in wrappers.values()] == [8 if accumulate == 1 else 3] * 2


def test_clipping_may_be_given_in_one_place() -> None:
    model, reference = Net(), Net()
    one = build(model, other={"clip_grad": {"max_norm": 0.1}})
    both = build(reference, clip_grad={"max_norm": 0.1})
    for iteration in range(3):
        train_step(model, batch(iteration), one)
        train_step(reference, batch(iteration), both)
    assert same(weights(model), weights(reference))


@pytest.mark.parametrize(
    ("options", "other", "message"),
    [
        ({}, {"accumulative_counts": 2}, r"accumulative_counts.*muon 1.*adamw 2"),
        ({"clip_grad": {"max_norm": 1.0}}, {"clip_grad": {"max_norm": 2.0}}, r"clip_grad.*by one of them alone"),
        ({}, {"nonfinite": "skip"}, r"nonfinite.*'raise'.*'skip'"),
    ],
)
def test_what_has_to_agree_is_refused_with_what_to_write(options: Any, other: Any, message: str) -> None:
    model = Net()
    with pytest.raises(UsageRuntimeError, match=message):
        train_step(model, batch(0), build(model, other=other, **options))


def test_precisions_that_differ_are_refused_by_name() -> None:
    model = Net()
    matrices, rest = parts(model)
    wrappers = OptimWrapperDict(
        muon=AmpOptimWrapper(torch.optim.Muon(matrices, lr=0.02), dtype="bfloat16"),
        adamw=OptimWrapper(torch.optim.AdamW(rest, lr=1e-2)),
    )
    for ask in (lambda: wrappers.precision, lambda: wrappers.optim_context(model)):
        with pytest.raises(UsageRuntimeError, match=r"muon.*bfloat16.*adamw"):
            ask()
    assert wrappers["muon"].precision == {"dtype": "bfloat16", "amp_modules": None}
    assert wrappers["adamw"].precision is None


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    model = Net()
    matrices, rest = parts(model)
    wrappers = OptimWrapperDict(
        a=OptimWrapper(torch.optim.SGD(matrices, lr=0.02)), b=OptimWrapper(torch.optim.LBFGS(rest))
    )
    with pytest.raises(UsageRuntimeError, match=r"LBFGS.*closure"):
        train_step(model, batch(0), wrappers)


@pytest.mark.seam(4, "skip", "raise")
@pytest.mark.parametrize("factory", [OptimWrapper, AmpOptimWrapper])
@pytest.mark.parametrize("where", ["loss", "first", "last"])
def test_one_check_for_all_nothing_changes_anywhere(factory: Any, where: str) -> None:
    model = Net()
    wrappers = build(model, factory, nonfinite="skip")
    for iteration in range(2):
        train_step(model, batch(iteration), wrappers)
    before = weights(model)
    x = batch(2)
    wrappers.begin_iteration()
    if where == "loss":
        x = x * math.nan
        train_step(model, x, wrappers)
    else:
        handle = getattr(model, where).weight.register_hook(lambda grad: grad * math.nan)
        train_step(model, x, wrappers)
        handle.remove()
    assert same(weights(model), before)  # BatchNorm's statistics among them
    assert not wrappers.stepped
    assert [w.num_optimizer_steps for w in wrappers.values()] == [2, 2]
    train_step(model, batch(3), wrappers)
    assert [w.num_optimizer_steps for w in wrappers.values()] == [3, 3]
    assert all(torch.isfinite(value).all() for value in weights(model))


def test_the_error_names_the_parameter_of_any_of_them() -> None:
    model = Net()
    named = dict(model.named_parameters())
    wrappers = OptimWrapperDict(
        a=OptimWrapper(torch.optim.SGD([(n, p) for n, p in named.items() if p.ndim == 2], lr=0.1)),
        b=OptimWrapper(torch.optim.AdamW([(n, p) for n, p in named.items() if p.ndim != 2], lr=0.1)),
    )
    model.last.bias.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteError, match=r"gradient of last\.bias"):
        train_step(model, batch(0), wrappers)


@pytest.mark.seam(4, "AMP")
def test_float16_has_one_scale() -> None:
    model = Net()
    wrappers = build(model, AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 8.0})
    for iteration in range(4):
        handle = model.last.bias.register_hook(lambda grad, i=iteration: grad * (math.inf if i == 1 else 1.0))
        wrappers.begin_iteration()
        train_step(model, batch(iteration), wrappers)
        handle.remove()
        assert wrappers.stepped == (iteration != 1)
    assert [w.num_optimizer_steps for w in wrappers.values()] == [3, 3]
    saved = wrappers.state_dict()
    other = build(Net(), AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 8.0})
    other.load_state_dict(saved)
    scaler = other["muon"].loss_scaler
    assert scaler is not None
    assert scaler.get_scale() == 4.0


@pytest.mark.seam(4, "resume")
@pytest.mark.parametrize("mixed", [False, True])
def test_a_resume_with_waiting_gradients_is_exact(mixed: bool) -> None:
    def step(model: Net, wrappers: OptimWrapperDict, iteration: int) -> None:
        wrappers.begin_iteration()
        train_step(model, batch(iteration), wrappers)
        if mixed:  # a second loss, by name, in the same iteration
            wrappers["adamw"].update_params(model.last(torch.ones(2, 8)).sum() * 0.01)

    straight = Net()
    whole = build(straight, accumulative_counts=3, nonfinite="skip", clip_grad={"max_norm": 0.2})
    for iteration in range(11):
        step(straight, whole, iteration)
    first = Net()
    before = build(first, accumulative_counts=3, nonfinite="skip", clip_grad={"max_norm": 0.2})
    for iteration in range(5):
        step(first, before, iteration)
    assert not before.at_step_boundary
    assert before.can_be_saved
    buffer = io.BytesIO()
    torch.save([first.state_dict(), before.state_dict()], buffer)
    buffer.seek(0)
    saved_model, saved = torch.load(buffer, weights_only=True)
    second = Net()
    second.load_state_dict(saved_model)
    after = build(second, accumulative_counts=3, nonfinite="skip", clip_grad={"max_norm": 0.2})
    after.load_state_dict(saved)
    for iteration in range(5, 11):
        step(second, after, iteration)
    assert same(weights(straight), weights(second))
    for run in (whole, after):
        run.flush()
        assert run.stepped
    assert same(weights(straight), weights(second))
    assert [w.num_optimizer_steps for w in after.values()] == [w.num_optimizer_steps for w in whole.values()]


@pytest.mark.seam(4, "flush", "by name")
def test_flush_of_wrappers_that_are_driven_by_name() -> None:
    model = Net()
    wrappers = build(model, accumulative_counts=4)
    for _ in range(5):
        wrappers["muon"].update_params(model(batch(0))["loss"])
    wrappers.flush()
    assert (wrappers["muon"].stepped, wrappers["adamw"].stepped) == (True, False)
    assert (wrappers["muon"].num_optimizer_steps, wrappers["adamw"].num_optimizer_steps) == (2, 0)


def test_groups_of_param_groups_serve_several() -> None:
    model = Net()
    groups = param_groups(model, norm_decay_mult=0.0)
    wrappers = OptimWrapperDict(
        a=OptimWrapper(torch.optim.SGD(groups[:1], lr=0.1)), b=OptimWrapper(torch.optim.SGD(groups[1:], lr=0.1))
    )
    train_step(model, batch(0), wrappers)
    assert wrappers.num_optimizer_steps == 2
