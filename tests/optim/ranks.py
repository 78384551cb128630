"""Run in each of two processes: faults on one rank alone, and accumulation under DDP. Prints one JSON line."""

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import nn

from lazyengine.logging import MessageHub
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, OptimWrapperDict, param_groups


def build(**options: Any) -> tuple[nn.Module, nn.Module, OptimWrapper]:
    """Return a model, DDP around it and a wrapper."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    ddp = nn.parallel.DistributedDataParallel(model)
    return model, ddp, OptimWrapper(torch.optim.SGD(list(model.named_parameters()), lr=0.1, momentum=0.9), **options)


def loss(module: nn.Module, iteration: int, rank: int) -> torch.Tensor:
    """Return a loss that depends on iteration and rank."""
    x = torch.cos(torch.arange(12.0) * (0.3 + 0.1 * iteration + rank)).reshape(3, 4)
    return module(x).square().mean()


def same_on_all(model: nn.Module) -> bool:
    """Return whether the weights are equal to the bit on both ranks."""
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    gathered = [torch.empty_like(flat) for _ in range(2)]
    td.all_gather(gathered, flat)
    return torch.equal(*gathered)


def raise_names_the_rank(rank: int) -> None:
    """An infinite loss with finite gradients on rank 1: no gradient shows it to rank 0."""
    model, ddp, wrapper = build()
    wrapper.update_params(loss(ddp, 0, rank))
    before = model.weight.detach().clone()
    MessageHub.get_current_instance().update_info("iter", 1)
    with pytest.raises(NonFiniteError, match="on rank 1 the loss is inf at iteration 1") as caught:
        wrapper.update_params(loss(ddp, 1, rank) + (math.inf if rank == 1 else 0.0))
    assert caught.value.reasons == [None, "the loss is inf"]
    assert torch.equal(model.weight.detach(), before)
    assert same_on_all(model)


def nan_on_one_rank_is_seen_in_the_reduced_gradients(rank: int) -> None:
    """A NaN loss on rank 1 spreads to the gradients of both."""
    model, ddp, wrapper = build()
    with pytest.raises(NonFiniteError, match=r"on rank 0 the gradient norm is nan.*on rank 1 the loss is nan"):
        wrapper.update_params(loss(ddp, 0, rank) * (math.nan if rank == 1 else 1.0))
    assert wrapper.num_optimizer_steps == 0
    assert same_on_all(model)


def under_ddp_the_gradients_carry_the_news(rank: int) -> None:
    """Once the wrapper knows of DDP, a good update sends nothing, and an infinite loss of rank 1 still stops both."""
    model, ddp, wrapper = build(accumulative_counts=2)
    wrapper.initialize_count_status(ddp, 0, -1)
    sent: list[torch.Tensor] = []
    wrapper._guard.agree, agree = sent.append, wrapper._guard.agree  # type: ignore[method-assign]
    for iteration in range(4):
        with wrapper.optim_context(ddp):
            value = loss(ddp, iteration, rank)
        wrapper.update_params(value)
    assert (wrapper.num_optimizer_steps, sent) == (2, [])
    wrapper._guard.agree = agree  # type: ignore[method-assign]
    before = model.weight.detach().clone()
    message = r"on rank 0 the gradient norm is nan.*on rank 1 the loss is inf and the gradient norm is nan"
    for iteration in range(2):
        with wrapper.optim_context(ddp):
            value = loss(ddp, iteration, rank) + (math.inf if (rank, iteration) == (1, 0) else 0.0)
        with pytest.raises(NonFiniteError, match=message) if iteration else contextlib.nullcontext():
            wrapper.update_params(value)
    assert torch.equal(model.weight.detach(), before)
    assert same_on_all(model)


def skip_is_decided_together(rank: int) -> None:
    """Both ranks leave out the same accumulations."""
    model, ddp, wrapper = build(nonfinite="skip", accumulative_counts=2, clip_grad={"max_norm": 1.0})
    for iteration in range(8):
        with wrapper.optim_context(ddp):
            value = loss(ddp, iteration, rank)
        wrapper.update_params(value + (math.inf if (rank, iteration) in ((1, 2), (0, 5)) else 0.0))
    assert wrapper.num_optimizer_steps == 2
    assert same_on_all(model)


def accumulation_equals_one_process(rank: int) -> None:
    """Gradients synchronized once an accumulation are those of all micro-batches of both ranks."""
    model, ddp, wrapper = build(accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 7)
    for iteration in range(7):
        with wrapper.optim_context(ddp):
            value = loss(ddp, iteration, rank)
        wrapper.update_params(value)
    torch.manual_seed(0)
    alone = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for window in ((0, 1, 2), (3, 4, 5), (6,)):
        sum(loss(alone, i, r) for i in window for r in range(2)).div(2 * len(window)).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.weight, alone.weight, rtol=1e-5, atol=1e-7)
    assert same_on_all(model)


def the_loss_scale_falls_on_all_ranks(rank: int) -> None:
    """A gradient that overflows on one rank alone (as sharded ones do) lowers the scale on both."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    wrapper = AmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), dtype="float16")
    if rank == 1:
        model.weight.register_hook(lambda grad: grad * math.inf)
    with wrapper.optim_context(model):
        value = model(torch.ones(1, 4)).float().sum()
    wrapper.update_params(value)
    assert wrapper.loss_scaler is not None
    assert wrapper.loss_scaler.get_scale() == 32768.0
    assert wrapper.num_optimizer_steps == 0


def a_deferred_flag_is_that_of_all_ranks(rank: int) -> None:
    """The fused step does nothing on both ranks, and both report it one update later."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, fused=True))
    wrapper._is_as_on_accelerator = True
    ddp = nn.parallel.DistributedDataParallel(model)
    wrapper.update_params(loss(ddp, 0, rank))
    before = model.weight.detach().clone()
    wrapper.update_params(loss(ddp, 1, rank) + (math.inf if rank == 1 else 0.0))
    assert torch.equal(model.weight.detach(), before)
    with pytest.raises(NonFiniteError) as caught:
        wrapper.update_params(loss(ddp, 2, rank))
    assert caught.value.reasons == [None, "the loss is inf"]


def an_incomplete_accumulation_is_flushed_with_the_gradients_of_all_ranks(rank: int) -> None:
    """The gradients that DDP was kept from seeing are averaged, for one wrapper and for several with one loss."""
    for joint in (False, True):
        model, ddp, wrapper = build(accumulative_counts=3)
        if joint:
            parts = {name: OptimWrapper(torch.optim.SGD([p], lr=0.1, momentum=0.9), accumulative_counts=3)
                     for name, p in model.named_parameters()}  # fmt: skip
            wrapper = OptimWrapperDict(**parts)  # type: ignore[assignment]
        wrapper.initialize_count_status(ddp, 0, -1)
        for iteration in range(5):
            wrapper.begin_iteration()
            with wrapper.optim_context(ddp):
                value = loss(ddp, iteration, rank)
            wrapper.update_params(value)
        assert not wrapper.can_be_saved
        wrapper.flush()
        torch.manual_seed(0)
        alone = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
        for window in ((0, 1, 2), (3, 4)):
            sum(loss(alone, i, r) for i in window for r in range(2)).div(2 * len(window)).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(model.weight, alone.weight, rtol=1e-5, atol=1e-7)
        assert same_on_all(model)


def a_closure_is_undone_on_all_ranks(rank: int) -> None:
    """A loss that is not finite on rank 1 alone, in one evaluation."""
    model, ddp, wrapper = build(nonfinite="skip")
    before = model.weight.detach().clone()

    def closure() -> torch.Tensor:
        wrapper.optimizer.zero_grad()
        value = loss(ddp, 0, rank)
        value.backward()
        return value.detach() + (math.inf if rank == 1 else 0.0)

    wrapper.update_params(loss(ddp, 0, rank), step_kwargs={"closure": closure})
    assert torch.equal(model.weight.detach(), before)
    assert (wrapper.num_optimizer_steps, wrapper.stepped) == (0, False)
    assert same_on_all(model)


def buffers_are_restored_inside_ddp(rank: int) -> None:
    """BatchNorm's statistics of a step that one rank rejected are those of before on both."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    ddp = nn.parallel.DistributedDataParallel(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), nonfinite="skip")
    wrapper.initialize_count_status(ddp, 0, -1)
    for iteration in range(3):
        before = [value.clone() for value in model.state_dict().values()]
        wrapper.begin_iteration()
        wrapper.update_params(loss(ddp, iteration, rank) * (math.nan if (rank, iteration) == (1, 2) else 1.0))
    assert not wrapper.stepped
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))


def sharded_parameters_are_checked_and_clipped(rank: int) -> None:
    """FSDP2: the norm is that of the whole gradient, and an infinite element in the shard of one rank stops both."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model, alone = nn.Linear(4, 2), nn.Linear(4, 2)
    alone.load_state_dict(model.state_dict())
    fully_shard(model)
    wrapper = OptimWrapper(
        torch.optim.SGD(param_groups(model), lr=0.1), accumulative_counts=2, clip_grad={"max_norm": 0.1}
    )
    for iteration in range(2):
        with wrapper.optim_context(model):
            value = loss(model, iteration, rank)
        wrapper.update_params(value)
    sum(loss(alone, i, r) for i in range(2) for r in range(2)).div(4).backward()  # type: ignore[union-attr]
    norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), 0.1)
    recorded = MessageHub.get_current_instance().get_scalar("train/grad_norm").current()
    assert recorded == pytest.approx(norm.item(), rel=1e-6)
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    torch.testing.assert_close(model.weight.full_tensor(), alone.weight, rtol=1e-5, atol=1e-7)  # type: ignore[operator]

    wrapper = OptimWrapper(torch.optim.SGD(param_groups(model), lr=0.1))
    wrapper.backward(loss(model, 2, rank))
    if rank == 1:
        model.weight.grad.to_local()[0, 0] = math.inf  # type: ignore[union-attr, operator]
    with pytest.raises(NonFiniteError, match=r"on rank 1 the gradient norm is nan \(gradient of weight\)"):
        wrapper.step()


CHECKS: list[Callable[[int], None]] = [
    raise_names_the_rank,
    nan_on_one_rank_is_seen_in_the_reduced_gradients,
    under_ddp_the_gradients_carry_the_news,
    skip_is_decided_together,
    accumulation_equals_one_process,
    the_loss_scale_falls_on_all_ranks,
    a_deferred_flag_is_that_of_all_ranks,
    an_incomplete_accumulation_is_flushed_with_the_gradients_of_all_ranks,
    a_closure_is_undone_on_all_ranks,
    buffers_are_restored_inside_ddp,
    sharded_parameters_are_checked_and_clipped,
]


def main() -> None:
    """Run all checks in this process of the group."""
    td.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    results = {}
    for check in CHECKS:
        try:
            check(rank)
            results[check.__name__] = "ok"
        except Exception:
            results[check.__name__] = traceback.format_exc()
            break  # the ranks would no longer call the same things
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()
    td.destroy_process_group()


if __name__ == "__main__":
    main()
