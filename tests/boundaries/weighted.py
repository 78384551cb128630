"""Token losses in parts of any sizes, over micro-batches and ranks: what both test files of sums and counts use."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as td
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lazyengine.model import LossAdapter, Weighted, train_step
from lazyengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict, param_groups

STEPS = 3
SIZES = (24, 24, 17)  # samples of each optimizer step: the last is ragged
LENGTH, CLASSES, IGNORED = 6, 5, -1


class ScaledInFloat32(AmpOptimWrapper):
    """The loss scaling of float16 without its rounding."""

    optim_context = OptimWrapper.optim_context
    precision = None  # type: ignore[assignment]


def samples(step: int) -> dict[str, torch.Tensor]:
    """Return inputs ``(N, 3, L)`` and classes ``(N, L)`` of which from none to all are ignored."""
    generator = torch.Generator().manual_seed(step)
    n = SIZES[step]
    targets = torch.randint(CLASSES, (n, LENGTH), generator=generator)
    lengths = torch.randint(LENGTH + 1, (n, 1), generator=generator)
    targets[torch.arange(LENGTH) >= lengths] = IGNORED
    return {"inputs": torch.randn(n, 3, LENGTH, generator=generator), "targets": targets}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 8, 1), nn.Tanh(), nn.Conv1d(8, CLASSES, 1))


def model_of(kind: str) -> nn.Module:
    """Return a model whose loss goes by sum and count: by itself, by a tuple or by two keys; or a plain mean."""
    net = network()
    if kind == "adapter":
        return LossAdapter(net, nn.CrossEntropyLoss(ignore_index=IGNORED), inputs="inputs")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
            scores = self.network(inputs)
            total = nn.functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
            num = (targets != IGNORED).sum()
            if kind == "keys":
                return {"loss_sum": total, "num": num}
            return {"loss": Weighted(total, num), "loss_sharp": Weighted(0.1 * total, num)}

    return Model()


def parts(step: int, num_parts: int) -> list[dict[str, torch.Tensor]]:
    """Return the samples of a step in parts of different sizes; the first has nothing that counts where it can be."""
    batch = samples(step)
    order = (batch["targets"] != IGNORED).sum(1).argsort()
    shares: list[Any] = [list(order[i::num_parts][: 1 + 2 * i]) for i in range(num_parts - 1)]
    taken = {int(i) for share in shares for i in share}
    shares.append([i for i in range(SIZES[step]) if i not in taken])
    return [{name: value[torch.tensor([int(i) for i in share])] for name, value in batch.items()} for share in shares]


def wrap(kind: str, model: nn.Module, accumulation: int, **options: Any) -> Any:
    options = {"accumulative_counts": accumulation, "clip_grad": {"max_norm": 0.3}, **options}
    sgd = lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.9)  # noqa: E731
    if kind == "scaled":
        return ScaledInFloat32(sgd(param_groups(model)), dtype="float16", **options)
    if kind == "joint":
        named = list(model.named_parameters())
        return OptimWrapperDict(a=OptimWrapper(sgd(named[:1]), **options), b=OptimWrapper(sgd(named[1:]), **options))
    return OptimWrapper(sgd(param_groups(model)), **options)


def trained(
    loss: str, accumulation: int, optim: str = "plain", rank: int = 0, ranks: int = 1, wrapper: str = "ddp"
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return all weights after three steps, as one vector, and what was logged."""
    model = model_of(loss)
    forward = model
    if wrapper == "fsdp2" and ranks > 1:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    elif ranks > 1:
        forward = DistributedDataParallel(model)
    optim_wrapper = wrap(optim, model, accumulation)
    optim_wrapper.initialize_count_status(forward, 0, STEPS * accumulation)
    logs = []
    for step in range(STEPS):
        for part in parts(step, accumulation * ranks)[rank::ranks]:
            optim_wrapper.begin_iteration()
            logs.append(train_step(model, part, optim_wrapper, forward=None if forward is model else forward))
        assert optim_wrapper.stepped
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]  # type: ignore[operator]
    return torch.cat([p.detach().reshape(-1) for p in full]), logs


def whole(loss: str) -> tuple[torch.Tensor, list[float]]:
    """Return the weights and losses of a plain loop in float64 over whole batches."""
    net = network().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for step in range(STEPS):
        batch = samples(step)
        value = nn.functional.cross_entropy(net(batch["inputs"].double()), batch["targets"], ignore_index=IGNORED)
        value = value * (1.1 if loss == "tuple" else 1.0)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        optimizer.step()
        losses.append(value.item())
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()]), losses


def check_equal(weights: torch.Tensor, loss: str) -> None:
    expected, _ = whole(loss)
    error = ((weights.double() - expected).norm() / expected.norm()).item()
    assert error < 1e-6, error


def on_rank(rank: int, port: int) -> None:
    """Everything that two ranks have to agree on, in one of them."""
    with contextlib.ExitStack() as stack:
        td.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        stack.callback(td.destroy_process_group)
        for accumulation in (1, 2, 4, 8):
            check_equal(trained("adapter", accumulation, "plain", rank, 2)[0], "adapter")
        for optim, loss in (("scaled", "keys"), ("joint", "tuple")):
            check_equal(trained(loss, 2, optim, rank, 2)[0], loss)
        for accumulation in (1, 4):
            check_equal(trained("keys", accumulation, "plain", rank, 2, "fsdp2")[0], "keys")
        check_log(rank)
        check_several_counts(rank)
        check_nothing_counted(rank)


def check_log(rank: int) -> None:
    """The mean over a window is the sum over the count, of both ranks together."""
    from lazyengine.logging import MessageHub

    _, logs = trained("tuple", 2, "plain", rank, 2)
    hub = MessageHub("weighted")
    for log in logs[:2]:
        hub.update_scalar("train/loss", *log["loss"])
    hub.average_over_ranks()
    assert abs(hub.get_scalar("train/loss").mean(2) - whole("tuple")[1][0]) < 1e-6


def check_several_counts(rank: int) -> None:
    """Two denominators: each sum is divided by its own total."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    ddp = DistributedDataParallel(model)
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    a, b = ddp(x).squeeze(1)
    optim_wrapper.update_params([Weighted(a * (1 + rank), 1 + rank), Weighted(b * (4 - rank), 3)])
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, 1 - 7 / 6]]))


def check_nothing_counted(rank: int) -> None:
    """One rank without anything takes part; where none has, there is no step."""
    model = nn.Linear(2, 1)
    ddp = DistributedDataParallel(model)
    optim_wrapper = OptimWrapper(torch.optim.Adam(model.parameters()))
    for counts, has_stepped in (((0, 3), True), ((0, 0), False), ((2, 0), True)):
        before = model.weight.detach().clone()
        optim_wrapper.update_params(Weighted(ddp(torch.ones(1, 2)).sum() * counts[rank], counts[rank]))
        assert optim_wrapper.stepped is has_stepped
        assert torch.equal(before, model.weight) is not has_stepped
