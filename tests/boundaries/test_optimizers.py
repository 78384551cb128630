"""Optimizers that are not as torch's: without a rate, with two sets of weights; killed, resumed, equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.errors import UsageRuntimeError, UsageValueError
from lazyengine.evaluator import Evaluator
from lazyengine.hooks import Hook, default_hooks
from lazyengine.model import train_step
from lazyengine.optim import LinearLR, OptimWrapper, OptimWrapperDict, SAMOptimWrapper, param_groups, scale_lr
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..runner.toy import MeanError, StopAt, ToyData, ToyModel


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD: Defazio et al. 2024, https://arxiv.org/abs/2405.15682, with the interface of their package."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "train_mode": False, "k": 0})

    @torch.no_grad()
    def _switch(self, mode: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] is not mode:
                weight = 1 - group["momentum"] if mode else 1 - 1 / group["momentum"]
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight)
                group["train_mode"] = mode

    def train(self) -> None:
        self._switch(True)

    def eval(self) -> None:
        self._switch(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            assert group["train_mode"], "not in train mode"
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["momentum"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])


class Validations(Hook):
    """Keeps the weights that were validated."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 0:
            self.weights.append(flat(runner.model))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def runner_of(path: Path, wrap: Any, *, validates: bool = True, kill_at: int = 0, **options: Any) -> Runner:
    torch.manual_seed(0)
    model = options.pop("model", None) or ToyModel()
    hooks = {**default_hooks(), **options.pop("hooks", {}), "validations": Validations()}
    del hooks["progress_bar"]
    hooks["checkpoint"].interval = 1
    if kill_at:
        hooks["kill"] = StopAt(kill_at)
    loader = DataLoader(ToyData(), batch_size=4, sampler=DefaultSampler(ToyData(), shuffle=True))
    val = DataLoader(ToyData(), batch_size=4, sampler=DefaultSampler(ToyData(), shuffle=False))
    return Runner(
        model,
        train_loop=options.pop("train_loop", EpochBasedTrainLoop)(loader, *options.pop("length", (4,))),
        val_loop=ValLoop(val, Evaluator(MeanError())) if validates else None,
        optim_wrapper=wrap(model),
        hooks=hooks,
        work_dir=str(path),
        launcher="none",
        device="cpu",
        **options,
    )


def killed_and_resumed(path: Path, wrap: Any, **options: Any) -> Runner:
    def given() -> dict[str, Any]:
        return {name: value() if callable(value) else value for name, value in options.items()}

    with pytest.raises(InterruptedError):
        runner_of(path, wrap, kill_at=13, **given()).train()
    resumed = runner_of(path, wrap, resume=True, **given())
    resumed.train()
    return resumed


def free(model: nn.Module) -> OptimWrapper:
    return OptimWrapper(ScheduleFree(model.parameters()), clip_grad={"max_norm": 1.0})


def two(model: Any) -> OptimWrapperDict:
    first, last = model.net[0], model.net[3]
    sgd = torch.optim.SGD(last.parameters(), lr=0.1)
    return OptimWrapperDict(free=OptimWrapper(ScheduleFree(first.parameters())), sgd=OptimWrapper(sgd))


@pytest.mark.parametrize("wrap", [free, two])
def test_schedule_free_weights_are_evaluated_and_published_and_training_goes_on_from_its_own(wrap, tmp_path):
    straight = runner_of(tmp_path / "a", wrap)
    straight.train()
    untouched = runner_of(tmp_path / "b", wrap, validates=False)
    untouched.train()
    assert torch.equal(flat(straight.model), flat(untouched.model))  # neither validations nor saves move anything
    resumed = killed_and_resumed(tmp_path / "c", wrap)
    assert torch.equal(flat(straight.model), flat(resumed.model))

    kept: Any = straight.hooks["validations"]
    validated = kept.weights[-1]
    assert not torch.equal(validated, flat(straight.model))
    published = read_checkpoint(str(tmp_path / "a" / "epoch_4.pth"))["state_dict"]
    names = [name for name, _ in straight.model.named_parameters()]
    assert torch.equal(torch.cat([published[name].reshape(-1) for name in names]), validated)
    with straight.optim_wrapper.evaluation_weights():
        assert torch.equal(flat(straight.model), validated)
        state = straight.optim_wrapper.state_dict()
    assert torch.equal(flat(straight.model), flat(untouched.model))
    other = wrap(model := ToyModel())
    model.load_state_dict(published)
    other.load_state_dict(state)
    assert torch.equal(flat(model), flat(straight.model))


class NoRate(torch.optim.Optimizer):
    """Sets its rate itself, as Adafactor does."""

    def __init__(self, params: Any, lr: float | None = None) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    steps = self.state[p]["steps"] = self.state[p].get("steps", 0) + 1
                    p.sub_(p.grad, alpha=0.1 / steps)


def adafactor(params: Any) -> Any:
    return pytest.importorskip("transformers").Adafactor(params)


@pytest.mark.parametrize("make", [NoRate, adafactor])
def test_an_optimizer_that_sets_its_rate_itself_trains_and_resumes(make, tmp_path):
    def wrap(model: nn.Module) -> OptimWrapper:
        return OptimWrapper(make(param_groups(model, custom_keys={"net.0": {"weight_decay": 0.1}})))

    straight = runner_of(tmp_path / "a", wrap)
    straight.train()
    assert torch.equal(flat(straight.model), flat(killed_and_resumed(tmp_path / "b", wrap).model))
    assert "train/lr" not in straight.message_hub.log_scalars or len(straight.message_hub.get_scalar("train/lr")) == 0
    wrapper = wrap(ToyModel())
    with pytest.raises(UsageValueError, match=r"LinearLR: the optimizer sets lr itself \(lr=None in group 0\)"):
        LinearLR(wrapper, end=5)
    with pytest.raises(UsageRuntimeError, match=r"cannot be scaled: \w+ sets that of group 0 itself"):
        scale_lr(wrapper, 8, 16)
    with pytest.raises(UsageValueError, match=r"lr=None.*nothing to multiply by 0.1"):
        make(param_groups(ToyModel(), custom_keys={"net.0": {"lr_mult": 0.1}}))


class Regression(nn.Module):
    """Returns a loss, with a batch norm whose statistics move once a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.net(x).squeeze(1) - x.sum(1)).square().mean()}


def test_sam_is_the_two_steps_of_the_paper():
    model, alone = Regression(), Regression()
    wrapper = SAMOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.3, clip_grad={"max_norm": 1.0}
    )
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        x = torch.cos(torch.arange(15.0).reshape(5, 3) + step)
        log = train_step(model, {"x": x}, wrapper)
        loss = alone(x)["loss"]
        assert torch.equal(log["loss"], loss.detach())
        buffers = [buffer.clone() for buffer in alone.buffers()]
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        before = [p.detach().clone() for p in alone.parameters()]
        scale = 0.3 / nn.utils.get_total_norm(gradients)
        with torch.no_grad():
            for p, gradient in zip(alone.parameters(), gradients):
                p.add_(gradient * scale)
        optimizer.zero_grad()
        alone(x)["loss"].backward()
        with torch.no_grad():
            for p, value in zip(alone.parameters(), before):
                p.copy_(value)
            for buffer, value in zip(alone.buffers(), buffers):
                buffer.copy_(value)
        nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        optimizer.step()
    assert torch.equal(flat(model), flat(alone))
    for one, other in zip(model.buffers(), alone.buffers()):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="call it within"):
        wrapper.update_params(model(torch.ones(2, 3))["loss"])
    before = flat(model)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        train_step(model, {"x": torch.full((2, 3), torch.nan)}, wrapper)
    assert torch.equal(before, flat(model))
    with pytest.raises(UsageValueError, match="no accumulation"):
        SAMOptimWrapper(torch.optim.SGD(model.parameters()), accumulative_counts=2)


def test_sam_resumes_equal(tmp_path):
    def wrap(model: nn.Module) -> OptimWrapper:
        return SAMOptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))

    straight = runner_of(tmp_path / "a", wrap)
    straight.train()
    assert torch.equal(flat(straight.model), flat(killed_and_resumed(tmp_path / "b", wrap).model))


class NoNorm(Regression):
    """The same without a batch norm, which sees the batch of one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(layer for layer in self.net if not isinstance(layer, nn.BatchNorm1d)))


def sam_steps(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights after four steps on batches that ranks share, and how far each step looked."""
    model = NoNorm()
    forward = nn.parallel.DistributedDataParallel(model) if ranks > 1 else None
    optimizer = torch.optim.SGD(param_groups(model), lr=0.1, momentum=0.9)
    wrapper = SAMOptimWrapper(optimizer, rho=0.3, clip_grad={"max_norm": 0.5})
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(flat(module)))
    for step in range(4):
        x = torch.cos(torch.arange(24.0) + step).reshape(8, 3)[rank::ranks]
        train_step(model, {"x": x}, wrapper, forward=forward)
    return flat(model), torch.stack([after - before for before, after in zip(seen[::2], seen[1::2])])


def sam_on_rank(rank: int, folder: str) -> None:
    expected = sam_steps(0, 1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.testing.assert_close(sam_steps(rank, 2), expected)
    distributed.destroy_process_group()


def test_sam_on_two_ranks_moves_along_the_gradient_of_both(tmp_path):
    moves = sam_steps(0, 1)[1]
    torch.testing.assert_close(moves.norm(dim=1), torch.full((4,), 0.3))
    spawn(sam_on_rank, (str(tmp_path),), nprocs=2)
