"""A loss or gradient that is not finite never changes a weight, whatever the policy."""

import math

import pytest
import torch
from torch import nn

from lazyengine.logging import MessageHub
from lazyengine.optim import NonFiniteError, OptimWrapper

from .golden.networks import small_loss, small_network, weights


def poisoned(network: nn.Module, iteration: int, kind: str) -> torch.Tensor:
    """Return a loss with the given fault: of the loss itself, or of one gradient while the loss is finite."""
    loss = small_loss(network, iteration)
    if kind == "loss":
        return loss * math.nan
    if kind == "added constant":  # its gradients are finite
        return loss + math.inf
    weight = next(network.parameters())
    return loss + (torch.sqrt(weight[0, 0] * 0) if kind == "gradient" else 0.0)  # the derivative of sqrt at 0 is inf


KINDS = ["loss", "added constant", "gradient"]


def train(network: nn.Module, wrapper: OptimWrapper, kinds: dict[int, str], iterations: int = 8) -> None:
    """Train with faults at the given iterations."""
    for iteration in range(iterations):
        wrapper.update_params(poisoned(network, iteration, kinds.get(iteration, "")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_grad", [None, {"max_norm": 1.0}, {"type": "value", "clip_value": 0.1}])
def test_raise_names_what_was_not_finite_and_leaves_weights_and_state(
    kind: str, clip_grad: dict | None, hub: MessageHub
) -> None:
    network = small_network()
    wrapper = OptimWrapper(torch.optim.Adam(list(network.named_parameters()), lr=0.01), clip_grad=clip_grad)
    train(network, wrapper, {}, 2)
    before, state = weights(network), wrapper.optimizer.state_dict()
    hub.update_info("iter", 41)
    with pytest.raises(NonFiniteError) as caught:
        wrapper.update_params(poisoned(network, 2, kind))
    assert weights(network) == before
    assert wrapper.optimizer.state_dict()["state"][0]["step"] == state["state"][0]["step"] == 2
    assert (wrapper.num_optimizer_steps, wrapper.at_step_boundary) == (2, True)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert caught.value.iteration == 41
    assert "at iteration 41" in str(caught.value)
    expected = {"loss": "the loss is nan", "added constant": "the loss is inf", "gradient": "the gradient norm is "}
    assert expected[kind] in str(caught.value)
    if kind == "gradient":
        assert "gradient of 0.weight" in str(caught.value)
        assert "0.bias" not in str(caught.value)
    wrapper.update_params(small_loss(network, 3))
    assert all(map(math.isfinite, weights(network)))


@pytest.mark.parametrize("kind", KINDS)
def test_skip_leaves_out_the_update_and_goes_on(kind: str, hub: MessageHub, log_lines: list[str]) -> None:
    network, reference = small_network(), small_network()
    wrapper = OptimWrapper(torch.optim.Adam(network.parameters(), lr=0.01), nonfinite="skip")
    train(network, wrapper, {3: kind})
    other = OptimWrapper(torch.optim.Adam(reference.parameters(), lr=0.01))
    for iteration in (0, 1, 2, 4, 5, 6, 7):
        other.update_params(small_loss(reference, iteration))
    assert weights(network) == weights(reference)
    assert wrapper.num_optimizer_steps == 7
    assert [line for line in log_lines if "Skipped the update (1 in a row, at most 10)" in line]


@pytest.mark.parametrize("bad", [4, 5, 6, 7])
def test_one_bad_micro_batch_discards_its_whole_accumulation(bad: int, log_lines: list[str]) -> None:
    network, reference = small_network(), small_network()
    wrapper = OptimWrapper(
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), accumulative_counts=4, nonfinite="skip"
    )
    train(network, wrapper, {bad: "added constant"}, 12)
    other = OptimWrapper(torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9), accumulative_counts=4)
    for iteration in (0, 1, 2, 3, 8, 9, 10, 11):
        other.update_params(small_loss(reference, iteration))
    assert weights(network) == weights(reference)
    assert (wrapper.num_optimizer_steps, wrapper.inner_count) == (2, 12)


def test_a_bad_micro_batch_is_raised_at_once_in_one_process() -> None:
    network = small_network()
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), accumulative_counts=4)
    wrapper.update_params(small_loss(network, 0))
    with pytest.raises(NonFiniteError, match="the loss is nan in micro-batch 2"):
        wrapper.update_params(poisoned(network, 1, "loss"))
    assert wrapper.at_step_boundary


def test_too_many_skips_in_a_row_are_an_error_and_a_good_update_starts_over(
    log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lazyengine.optim.gradients.MAX_CONSECUTIVE_SKIPS", 2)
    network = small_network()
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), nonfinite="skip")
    train(network, wrapper, {0: "loss", 1: "loss", 3: "loss", 4: "loss"}, 6)
    before = weights(network)
    wrapper.update_params(poisoned(network, 6, "loss"))
    saved = wrapper.state_dict()
    resumed = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), nonfinite="skip")
    resumed.load_state_dict(saved)
    resumed.update_params(poisoned(network, 7, "loss"))
    with pytest.raises(NonFiniteError) as caught:
        resumed.update_params(poisoned(network, 8, "loss"))
    assert "3 in a row, at most 2" in caught.value.__notes__[0]
    assert weights(network) == before


def test_ignore_looks_at_nothing() -> None:
    network = small_network()
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), nonfinite="ignore")
    wrapper.update_params(poisoned(network, 0, "loss"))
    assert any(map(math.isnan, weights(network)))


def test_error_if_nonfinite_of_the_clipping_works_without_the_check() -> None:
    network = small_network()
    wrapper = OptimWrapper(
        torch.optim.SGD(network.parameters(), lr=0.1),
        clip_grad={"max_norm": 1.0, "error_if_nonfinite": True},
        nonfinite="ignore",
    )
    with pytest.raises(RuntimeError, match="gradient norm is"):
        wrapper.update_params(poisoned(network, 0, "gradient"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_of_every_dtype_are_looked_at(dtype: torch.dtype, value: float) -> None:
    weight = nn.Parameter(torch.ones(3, dtype=dtype))
    other = nn.Parameter(torch.ones(2))
    wrapper = OptimWrapper(torch.optim.SGD([other, weight], lr=0.1))
    wrapper.backward(other.sum() + weight.abs().sum().float())
    wrapper.step()
    after = weight.detach().clone()
    wrapper.zero_grad()
    wrapper.backward(other.sum() + weight.abs().sum().float())
    assert weight.grad is not None
    weight.grad[1] = value
    with pytest.raises(NonFiniteError, match="parameter 1 of group 0"):
        wrapper.step()
    assert torch.equal(weight.detach(), after)


def test_sparse_gradients_are_looked_at() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    wrapper = OptimWrapper(torch.optim.SparseAdam(embedding.parameters(), lr=0.1))
    wrapper.update_params(embedding(torch.tensor([1, 1, 2])).sum())
    before = embedding.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="gradient norm"):
        wrapper.update_params(torch.sqrt(embedding(torch.tensor([1, 1, 2])) * 0).sum())
    assert torch.equal(embedding.weight.detach(), before)


# ---------------------------------------------------------------------- the flag that stays on the device
FUSED = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_deferred_check_stops_the_step_itself_and_speaks_one_update_later(
    name: str, kind: str, hub: MessageHub
) -> None:
    network = small_network().float()
    wrapper = OptimWrapper(FUSED[name](network.parameters()))
    wrapper._is_as_on_accelerator = True
    hub.update_info("iter", 0)
    train_float(network, wrapper, 2)
    before = weights(network)
    hub.update_info("iter", 2)
    wrapper.update_params(poisoned_float(network, kind))
    assert weights(network) == before
    hub.update_info("iter", 3)
    with pytest.raises(NonFiniteError, match="at iteration 2") as caught:
        wrapper.update_params(poisoned_float(network, ""))
    assert weights(network) == before
    assert "one update late" in caught.value.__notes__[0]


@pytest.mark.parametrize("name", FUSED)
def test_a_deferred_skip_equals_a_skip_at_once(name: str, log_lines: list[str]) -> None:
    networks = [small_network().float(), small_network().float()]
    for network, deferred in zip(networks, (True, False)):
        wrapper = OptimWrapper(FUSED[name](network.parameters()), nonfinite="skip")
        wrapper._is_as_on_accelerator = deferred
        for iteration in range(10):
            kind = "gradient" if iteration in (0, 3, 4, 9) else ""
            wrapper.update_params(poisoned_float(network, kind))
        wrapper.state_dict()
    assert weights(networks[0]) == weights(networks[1])
    assert sum("Skipped" in line for line in log_lines) == 8


def test_saving_reads_the_last_flag() -> None:
    network = small_network().float()
    wrapper = OptimWrapper(FUSED["AdamW"](network.parameters()))
    wrapper._is_as_on_accelerator = True
    train_float(network, wrapper, 2)
    wrapper.update_params(poisoned_float(network, "loss"))
    with pytest.raises(NonFiniteError):
        wrapper.state_dict()


def train_float(network: nn.Module, wrapper: OptimWrapper, iterations: int) -> None:
    """Train a float32 network without faults."""
    for _ in range(iterations):
        wrapper.update_params(poisoned_float(network, ""))


def poisoned_float(network: nn.Module, kind: str) -> torch.Tensor:
    """As `poisoned`, for a float32 network."""
    loss = network(torch.linspace(-1, 1, 8).reshape(2, 4)).square().mean()
    if kind == "loss":
        return loss * math.nan
    return loss + (torch.sqrt(next(network.parameters())[0, 0] * 0) if kind else 0.0)


def test_a_loss_that_was_not_finite_is_known_after_a_resume_within_its_accumulation() -> None:
    torch.manual_seed(0)
    network = small_network()
    first, again = (
        OptimWrapper(torch.optim.SGD(network.parameters(), 0.1), accumulative_counts=4, nonfinite="skip")
        for _ in range(2)
    )
    for iteration in range(2):
        first.update_params(poisoned(network, iteration, "added constant" if iteration == 1 else ""))
    state = first.state_dict()
    network.zero_grad()
    again.load_state_dict(state)
    before = weights(network)
    for iteration in (2, 3):
        again.update_params(small_loss(network, iteration))
    assert weights(network) == before
    assert again.num_optimizer_steps == 0
