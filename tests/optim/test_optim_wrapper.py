"""OptimWrapper: counting, clipping, contexts, state; equal to mmengine where its semantics are taken over."""

import functools
import io
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from lazyengine.logging import MessageHub
from lazyengine.optim import CosineAnnealingMomentum, LinearParamScheduler, OptimWrapper

from .golden.networks import ACCUMULATION, CLIPPING, small_loss, small_network, weights

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optim_wrapper.json").read_text(encoding="utf-8"))


def sgd(network: nn.Module, **options: object) -> OptimWrapper:
    """Wrap plain SGD with momentum."""
    return OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ACCUMULATION)
def test_accumulation_equals_mmengine(name: str, hub: MessageHub, log_lines: list[str]) -> None:
    counts, iterations, max_counts, init_counts = ACCUMULATION[name]
    network = small_network()
    wrapper = sgd(network, accumulative_counts=counts)
    if max_counts is not None:
        wrapper.initialize_count_status(network, init_counts, max_counts)
    sums, updated = [], []
    for iteration in range(init_counts, min(init_counts + iterations, max_counts if (max_counts or -1) > 0 else 10**9)):
        wrapper.update_params(small_loss(network, iteration))
        sums.append(sum(weights(network)))
        updated.append(wrapper.should_update())
    golden = GOLDEN["accumulation"][name]
    assert updated == golden["updated"]
    assert sums == pytest.approx(golden["sums"], rel=1e-12)
    assert weights(network) == pytest.approx(golden["weights"], rel=1e-12)
    assert wrapper.num_optimizer_steps == sum(updated)
    assert any("inside an accumulation" in line for line in log_lines) == (name == "resumed inside")


@pytest.mark.parametrize("name", CLIPPING)
@pytest.mark.parametrize("policy", ["raise", "ignore"])
def test_clipping_equals_mmengine(name: str, policy: str, hub: MessageHub) -> None:
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    wrapper = OptimWrapper(optimizer, clip_grad=CLIPPING[name], nonfinite=policy)
    for iteration in range(8):
        wrapper.update_params(small_loss(network, iteration))
    golden = GOLDEN["clipping"][name]
    assert weights(network) == pytest.approx(golden["weights"], rel=1e-12)
    if golden["norms"] is not None:
        assert hub.get_scalar("train/grad_norm").data[0].tolist() == pytest.approx(golden["norms"], rel=1e-12)
    elif name == "none":
        assert "train/grad_norm" not in hub.log_scalars


def test_the_recorded_norm_is_the_one_before_clipping_by_norm_and_by_value(hub: MessageHub) -> None:
    for clip_grad in ({"max_norm": 1e-3}, {"type": "value", "clip_value": 1e-4}):
        network = small_network()
        small_loss(network, 0).backward()
        expected = torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None]).norm().item()
        network.zero_grad()
        OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), clip_grad=clip_grad).update_params(
            small_loss(network, 0)
        )
        assert hub.get_scalar("train/grad_norm").current() == pytest.approx(expected, rel=1e-12)


def test_the_norm_is_recorded_on_update_steps_only(hub: MessageHub) -> None:
    network = small_network()
    wrapper = sgd(network, accumulative_counts=3, clip_grad={"max_norm": 1.0})
    for iteration in range(7):
        wrapper.update_params(small_loss(network, iteration))
    assert len(hub.get_scalar("train/grad_norm").data[0]) == 2


def test_clip_grad_given_by_the_caller_stays_as_it_is() -> None:
    clip_grad = {"type": "norm", "max_norm": 1.0}
    for _ in range(2):
        sgd(small_network(), clip_grad=clip_grad)
    assert clip_grad == {"type": "norm", "max_norm": 1.0}


@pytest.mark.parametrize("sparse", [False, True])
def test_clipping_equals_torch_with_parameters_of_two_dtypes_or_sparse_gradients(sparse: bool, hub: MessageHub) -> None:
    def build() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2).double()

    def loss(embedding: nn.Module, linear: nn.Module) -> torch.Tensor:
        return linear(embedding(torch.tensor([1, 1, 3])).double()).square().sum() * 10

    embedding, linear = build()
    parameters = [*embedding.parameters(), *linear.parameters()]
    wrapper = OptimWrapper(torch.optim.SGD(parameters, lr=0.1), clip_grad={"max_norm": 0.5})
    wrapper.update_params(loss(embedding, linear))

    other_embedding, other_linear = build()
    others = [*other_embedding.parameters(), *other_linear.parameters()]
    plain = torch.optim.SGD(others, lr=0.1)
    loss(other_embedding, other_linear).backward()
    if sparse:
        others[0].grad = others[0].grad.coalesce()  # type: ignore[union-attr]
    grads = [p.grad._values() if p.grad.is_sparse else p.grad for p in others]  # type: ignore[union-attr]
    norm = torch.nn.utils.get_total_norm(grads)
    torch.nn.utils.clip_grads_with_norm_(others, 0.5, norm)
    plain.step()
    for a, b in zip(parameters, others):
        torch.testing.assert_close(a, b, rtol=1e-6 if sparse else 0, atol=0)
    assert hub.get_scalar("train/grad_norm").current() == norm.item()


def test_a_step_equals_the_plain_torch_loop_to_the_bit(hub: MessageHub) -> None:
    networks = [small_network(), small_network()]
    wrapper = OptimWrapper(torch.optim.Adam(networks[0].parameters(), lr=0.01), clip_grad={"max_norm": 0.3})
    plain = torch.optim.Adam(networks[1].parameters(), lr=0.01)
    for iteration in range(20):
        wrapper.update_params(small_loss(networks[0], iteration))
        small_loss(networks[1], iteration).backward()
        torch.nn.utils.clip_grad_norm_(networks[1].parameters(), 0.3)
        plain.step()
        plain.zero_grad()
    assert weights(networks[0]) == weights(networks[1])
    assert all(parameter.grad is None for parameter in networks[0].parameters())


def test_step_and_zero_grad_arguments_reach_the_optimizer() -> None:
    network = small_network()
    wrapper = sgd(network)
    wrapper.update_params(small_loss(network, 0), zero_kwargs={"set_to_none": False})
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())


def test_a_zero_grad_of_the_optimizers_own_is_called() -> None:
    class Counting(torch.optim.SGD):
        calls = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.calls += 1
            super().zero_grad(set_to_none)

    network = small_network()
    optimizer = Counting(network.parameters(), lr=0.1)
    OptimWrapper(optimizer).update_params(small_loss(network, 0))
    assert optimizer.calls == 1


def test_at_step_boundary_says_whether_gradients_are_waiting() -> None:
    network = small_network()
    wrapper = sgd(network, accumulative_counts=3)
    wrapper.initialize_count_status(network, 0, 7)
    boundaries = []
    for iteration in range(7):
        wrapper.update_params(small_loss(network, iteration))
        boundaries.append(wrapper.at_step_boundary)
    assert boundaries == [False, False, True, False, False, True, True]
    assert (wrapper.inner_count, wrapper.num_optimizer_steps) == (7, 3)


def test_more_losses_than_announced_is_an_error() -> None:
    network = small_network()
    wrapper = sgd(network, accumulative_counts=2)
    wrapper.initialize_count_status(network, 0, 2)
    wrapper.update_params(small_loss(network, 0))
    wrapper.update_params(small_loss(network, 1))
    with pytest.raises(ValueError, match=r"called 3 times.*max_counts=2"):
        wrapper.update_params(small_loss(network, 2))


def test_batch_norm_with_accumulation_is_mentioned(log_lines: list[str]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    sgd(model, accumulative_counts=2).initialize_count_status(model, 0, 4)
    assert any("BatchNorm" in line for line in log_lines)


class Synced(nn.Module):
    """Stands for DDP: notes whether it was told not to synchronize."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0

    def no_sync(self):
        """Count contexts."""
        self.inside += 1
        return nullcontext("no sync")


def test_gradients_are_synchronized_only_before_an_update() -> None:
    network, ddp = small_network(), Synced()
    wrapper = sgd(network, accumulative_counts=3)
    wrapper.initialize_count_status(network, 0, 7)
    unsynced = []
    for iteration in range(7):
        before = ddp.inside
        with wrapper.optim_context(ddp):
            loss = small_loss(network, iteration)
        wrapper.update_params(loss)
        unsynced.append(ddp.inside - before)
    assert unsynced == [1, 1, 0, 1, 1, 0, 0]


def test_sharded_models_are_told_by_their_own_switch() -> None:
    class Sharded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.switched: list[bool] = []

        def set_requires_gradient_sync(self, value: bool) -> None:
            self.switched.append(value)

    network, sharded = small_network(), Sharded()
    wrapper = sgd(network, accumulative_counts=2)
    for iteration in range(4):
        with wrapper.optim_context(sharded):
            loss = small_loss(network, iteration)
        wrapper.update_params(loss)
    assert sharded.switched == [False, True, False, True]


def test_learning_rates_and_momenta_are_given_for_every_group() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": a.parameters(), "lr": 0.5}, {"params": b.parameters()}]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    assert wrapper.get_lr() == {"lr": [0.5, 0.1]}
    assert wrapper.get_momentum() == {"momentum": [0.9, 0.9]}
    assert OptimWrapper(torch.optim.AdamW(a.parameters(), betas=(0.8, 0.9))).get_momentum() == {"momentum": [0.8]}
    assert OptimWrapper(torch.optim.Adagrad(a.parameters())).get_momentum() == {"momentum": [0]}
    assert wrapper.param_groups is wrapper.optimizer.param_groups
    assert wrapper.defaults is wrapper.optimizer.defaults


def test_state_of_adamw_has_the_keys_of_the_notes() -> None:
    network = small_network()
    wrapper = OptimWrapper(torch.optim.AdamW(network.parameters(), lr=0.01))
    wrapper.update_params(small_loss(network, 0))
    state = wrapper.state_dict()
    count = len(list(network.parameters()))
    assert {"state", "param_groups"} <= state.keys()
    assert len(state["state"]) == len(state["param_groups"][0]["params"]) == count
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert {"params", "lr", "betas", "eps", "weight_decay", "amsgrad"} <= state["param_groups"][0].keys()


def test_state_resumes_counters_and_loads_into_a_plain_optimizer() -> None:
    network = small_network()
    wrapper = sgd(network, accumulative_counts=2)
    for iteration in range(6):
        wrapper.update_params(small_loss(network, iteration))
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other = sgd(network, accumulative_counts=2)
    other.load_state_dict(saved)
    assert (other.num_optimizer_steps, other.inner_count, other.at_step_boundary) == (3, 6, True)
    torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).load_state_dict(saved)


def test_the_state_of_mmengine_and_of_a_plain_optimizer_loads() -> None:
    network = small_network()
    plain = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)
    small_loss(network, 0).backward()
    plain.step()
    state = {**plain.state_dict(), "base_param_settings": {"params": torch.zeros(1), "lr": 0.3}}
    wrapper = sgd(network)
    wrapper.load_state_dict(state)
    assert wrapper.get_lr() == {"lr": [0.3]}
    assert "base_param_settings" in state
    assert torch.equal(
        wrapper.optimizer.state_dict()["state"][0]["momentum_buffer"], plain.state_dict()["state"][0]["momentum_buffer"]
    )


def test_the_state_of_other_groups_is_refused() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    saved = OptimWrapper(torch.optim.SGD([{"params": m.parameters()} for m in (a, b)], lr=0.1)).state_dict()
    other = OptimWrapper(torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1))
    with pytest.raises(ValueError, match=r"2 parameter groups of sizes \[2, 2\], this one 1 of sizes \[4\]"):
        other.load_state_dict(saved)
    with pytest.raises(ValueError, match="no key 'state'"):
        other.load_state_dict({"weights": 1})


def test_the_state_of_parameters_in_another_order_is_refused() -> None:
    linear = nn.Linear(2, 2)
    named = list(linear.named_parameters())
    saved = OptimWrapper(torch.optim.SGD(named, lr=0.1)).state_dict()
    other = OptimWrapper(torch.optim.SGD(named[::-1], lr=0.1))
    with pytest.raises(ValueError, match="'weight' where this one has 'bias'"):
        other.load_state_dict(saved)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accumulative_counts": 0}, ValueError, "accumulative_counts must be at least 1; got 0"),
        ({"accumulative_counts": 2.0}, TypeError, "accumulative_counts must be an int; got 2.0"),
        ({"clip_grad": 1.0}, TypeError, "clip_grad must be a dict"),
        ({"clip_grad": {"maxnorm": 1.0}}, ValueError, "Did you mean 'max_norm'"),
        ({"clip_grad": {"type": "norm"}}, ValueError, 'needs "max_norm"'),
        ({"clip_grad": {"max_norm": -1.0}}, ValueError, "must be greater than 0; got -1.0"),
        ({"clip_grad": {"type": "both", "max_norm": 1}}, ValueError, "got 'both'"),
        ({"nonfinite": "warn"}, ValueError, "got 'warn'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sgd(small_network(), **options)


def test_something_else_than_an_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer; got Linear"):
        OptimWrapper(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["of the optimizer", "of all optimizers"])
def test_the_hooks_of_torch_optimizers_are_called(scope: str) -> None:
    network = small_network()
    wrapper = sgd(network)
    wrapper.update_params(small_loss(network, 0))
    calls: list[str] = []
    if scope == "of the optimizer":
        pre, post = wrapper.optimizer.register_step_pre_hook, wrapper.optimizer.register_step_post_hook
    else:
        from torch.optim import optimizer as module

        pre, post = module.register_optimizer_step_pre_hook, module.register_optimizer_step_post_hook
    handles = [pre(lambda *_: calls.append("pre")), post(lambda *_: calls.append("post"))]
    wrapper.update_params(small_loss(network, 1))
    for handle in handles:
        handle.remove()
    wrapper.update_params(small_loss(network, 2))
    assert calls == ["pre", "post"]
    assert wrapper.num_optimizer_steps == 3


def test_a_profiler_sees_the_optimizer_step() -> None:
    network = small_network()
    wrapper = sgd(network)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        wrapper.update_params(small_loss(network, 0))
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()}


def test_a_step_that_was_replaced_is_the_one_that_runs() -> None:
    network = small_network()
    wrapper = sgd(network)
    calls = []

    def wrap(step):
        @functools.wraps(step)
        def wrapped(*args, **kwargs):
            calls.append(1)
            return step(*args, **kwargs)

        return wrapped

    class Counting(torch.optim.SGD):
        step = wrap(torch.optim.SGD.step)

    OptimWrapper(Counting(network.parameters(), lr=0.1)).update_params(small_loss(network, 0))
    wrapper.optimizer.step = wrap(wrapper.optimizer.step)  # type: ignore[method-assign]
    wrapper.update_params(small_loss(network, 1))
    assert len(calls) == 2


def test_options_as_built_are_saved_and_what_was_built_alike_never_warns(log_lines: list[str]) -> None:
    def build(lr: float = 0.1) -> OptimWrapper:
        return OptimWrapper(torch.optim.AdamW(network.parameters(), lr=torch.tensor(lr), betas=(0.8, 0.9)))

    network = small_network()
    wrapper = build()
    LinearParamScheduler(wrapper, "weight_decay", start_factor=0.5, end=5)
    CosineAnnealingMomentum(wrapper, end=5)
    wrapper.param_groups[0]["eps"] = 1e-3  # a hook's
    wrapper.param_groups[0]["lr"].fill_(0.01)
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    (built,) = state["optim_wrapper"]["as_built"]
    assert (built["lr"], built["betas"], built["weight_decay"], built["eps"]) == (
        pytest.approx(0.1),
        (0.8, 0.9),
        0.01,
        1e-8,
    )
    build().load_state_dict(state)
    assert not log_lines
    other = build(0.2)
    other.load_state_dict(state)
    (line,) = log_lines
    assert "AdamW, group 0: lr=0.2" in line
    assert "is in force from here" in line
    (group,) = other.param_groups
    assert (group["lr"].item(), group["eps"]) == (pytest.approx(0.2), 1e-3)  # what a hook has moved stays
    assert other.as_built[0]["lr"] == pytest.approx(0.2)
    del state["optim_wrapper"]["as_built"]  # version 0.1 did not save it
    other = build(0.2)
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"].item() == pytest.approx(0.01)
    assert "has no effect: the saved value stays" in log_lines[1]


def test_an_option_whose_state_is_missing_is_refused() -> None:
    network = small_network()
    wrapper = OptimWrapper(torch.optim.AdamW(network.parameters()))
    wrapper.update_params(sum(parameter.sum() for parameter in network.parameters()))
    other = OptimWrapper(torch.optim.AdamW(network.parameters(), amsgrad=True))
    with pytest.raises(ValueError, match="amsgrad=True needs a state"):
        other.load_state_dict(wrapper.state_dict())
