"""Late unfreezing: the rate is the scheduled one, modes follow, a killed run and two ranks are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from lazyengine.errors import UsageKeyError, UsageValueError
from lazyengine.hooks import Hook, UnfreezeHook
from lazyengine.model import ModelSetup, evaluating, freeze_parameters, unfreeze_parameters
from lazyengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict, param_groups
from lazyengine.runner import IterBasedTrainLoop
from tests.ports import free_port

from ..runner.toy import ToyModel
from .test_optimizers import flat, killed_and_resumed, runner_of


class Rates(Hook):
    """Keeps the rates, the first weight and the modes of each iteration."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[float] = []
        self.modes: list[bool] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.get_lr()["lr"])
        self.weights.append(runner.model.net[0].weight.sum().item())
        self.modes.append(runner.model.net[1].training)


def adamw(model: nn.Module) -> OptimWrapper:
    return OptimWrapper(torch.optim.AdamW(param_groups(model), lr=0.1))


def adamw_of_a_frozen(model: nn.Module) -> OptimWrapper:
    freeze_parameters(model, ["net.0", "net.1"])  # as a config has it, whose optimizer is built after freezing
    return adamw(model)


def frozen(by_epoch: bool, at: int) -> dict[str, Any]:
    return {
        "model_setup": lambda: ModelSetup(freeze=["net.0", "net.1"]),
        "hooks": lambda: {
            "unfreeze": UnfreezeHook(at, ["net.0", "net.1"], by_epoch=by_epoch, lr_mult=0.5),
            "rates": Rates(),
        },
    }


@pytest.mark.parametrize(("by_epoch", "at", "first"), [(True, 1, 5), (True, 3, 15), (False, 7, 7)])
def test_it_begins_with_its_scheduled_rate_and_resumes_equal(by_epoch, at, first, tmp_path):
    options = frozen(by_epoch, at)

    straight = runner_of(tmp_path / "a", adamw_of_a_frozen, **{name: value() for name, value in options.items()})
    straight.train()
    rates: Any = straight.hooks["rates"]
    assert straight.optim_wrapper.get_lr() == {"lr": [0.1, 0.05]}
    assert len(set(rates.weights[:first])) == 1
    assert len(set(rates.weights[first - 1 :])) == 21 - first
    assert rates.modes == [False] * first + [True] * (20 - first)
    resumed = killed_and_resumed(tmp_path / "b", adamw_of_a_frozen, **options)
    assert torch.equal(flat(straight.model), flat(resumed.model))
    assert all(torch.equal(a, b) for a, b in zip(straight.model.buffers(), resumed.model.buffers()))


def test_in_a_loop_that_counts_iterations_epochs_are_passes(tmp_path):
    options = {**frozen(True, 2), "train_loop": lambda: IterBasedTrainLoop, "length": (20,)}
    straight = runner_of(
        tmp_path / "a", adamw_of_a_frozen, **{n: v() if callable(v) else v for n, v in options.items()}
    )
    straight.train()
    rates: Any = straight.hooks["rates"]
    assert rates.modes == [False] * 10 + [True] * 10
    resumed = killed_and_resumed(tmp_path / "b", adamw_of_a_frozen, **options)
    assert torch.equal(flat(straight.model), flat(resumed.model))


def test_schedules_move_the_group_all_along():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    wrapper = adamw(model)
    runner: Any = SimpleNamespace(model=model, optim_wrapper=wrapper)
    UnfreezeHook(3, "0", lr_mult=0.5).add_param_groups(runner)
    UnfreezeHook(3, "0").add_param_groups(runner)  # held already
    model[0].requires_grad_(True)
    always = OptimWrapper(torch.optim.AdamW(param_groups(model, custom_keys={"0.": {"lr_mult": 0.5}}), lr=0.1))
    for each in (wrapper, always):
        each.chain = [LinearLR(each, end=4, by_epoch=False), CosineAnnealingLR(each, begin=4, end=20, by_epoch=False)]  # type: ignore[attr-defined]
    for _ in range(12):
        for each in (wrapper, always):
            for scheduler in each.chain:  # type: ignore[attr-defined]
                scheduler.step()
    assert sorted(wrapper.get_lr()["lr"]) == sorted(always.get_lr()["lr"])


def test_parts_that_stay_frozen_go_on_evaluating():
    backbone = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()) for _ in range(2)))
    model: Any = nn.Sequential(backbone, nn.Linear(2, 1)).train()
    freeze_parameters(model, "0")
    assert unfreeze_parameters(model, "0.1") == ["0.1.0.weight", "0.1.0.bias", "0.1.1.weight", "0.1.1.bias"]
    model.train()
    assert not any(module.training for module in model[0][0].modules())
    assert all(module.training for module in model[0][1].modules())
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(UsageValueError, match=r"unfreeze: '0\.7' matches no parameter of Sequential"):
        unfreeze_parameters(model, "0.7")


def test_a_tied_parameter_is_unfrozen_by_any_of_its_names():
    model: Any = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    freeze_parameters(model, "head")
    assert unfreeze_parameters(model, "head") == ["embed.weight"]
    assert model["head"].weight.requires_grad


def test_what_does_not_fit_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    runner: Any = SimpleNamespace(model=model, optim_wrapper=OptimWrapperDict(head=adamw(model[1])))
    with pytest.raises(UsageKeyError, match=r"UnfreezeHook: optimizer='hed', but there are head. Did you mean 'head'"):
        UnfreezeHook(1, "0", optimizer="hed").add_param_groups(runner)
    with pytest.raises(UsageValueError, match="UnfreezeHook: 'backbone' matches no parameter"):
        UnfreezeHook(1, "backbone", optimizer="head").add_param_groups(runner)
    with pytest.raises(UsageValueError, match="no such option"):
        UnfreezeHook(1, "0", optimizer="head", momentun=0.9).add_param_groups(runner)
    with pytest.raises(UsageValueError, match=r"1\.weight, 1\.bias are in an optimizer already"):
        UnfreezeHook(1, "1", optimizer="head", lr=0.1).add_param_groups(runner)
    with pytest.raises(UsageValueError, match="at=-1"):
        UnfreezeHook(-1, "0")


def steps(rank: int, ranks: int) -> torch.Tensor:
    """Return the weights after four steps, of which the last two train the first layer too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    setup = ModelSetup()
    optimizer = OptimWrapper(torch.optim.SGD(param_groups(model), lr=0.1, momentum=0.9))
    runner: Any = SimpleNamespace(
        model=model, optim_wrapper=optimizer, model_setup=setup, device=torch.device("cpu"), iter=0,
        forward=setup.wrap(model, torch.device("cpu")), logger=SimpleNamespace(info=lambda *_: None),
    )  # fmt: skip
    hook = UnfreezeHook(2, "0", by_epoch=False)
    hook.add_param_groups(runner)
    for runner.iter in range(4):
        hook.before_train_iter(runner, runner.iter)
        x = torch.cos(torch.arange(8.0) + runner.iter).reshape(4, 2)[rank::ranks]
        optimizer.update_params(runner.forward(x).square().mean())
    assert isinstance(runner.forward, DistributedDataParallel) is (ranks > 1)
    return flat(model)


def on_rank(rank: int, port: int) -> None:
    expected = steps(0, 1)
    td.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.testing.assert_close(steps(rank, 2), expected)
    td.destroy_process_group()


def test_two_ranks_synchronize_what_was_unfrozen():
    spawn(on_rank, (free_port(),), nprocs=2)


class Once(Hook):
    """Changes what trains or evaluates at the begin of one epoch alone, as one writes it who never resumes."""

    def __init__(self, change: Any, epoch: int = 1) -> None:
        self.change, self.epoch = change, epoch

    def before_train_epoch(self, runner: Any) -> None:
        if runner.epoch == self.epoch:
            self.change(runner.model)


class SavesWithin(Hook):
    """Saves while the model evaluates, as a best checkpoint is saved."""

    def after_val(self, runner: Any) -> None:
        runner.save_checkpoint("within.pth" if runner.epoch == 2 else "other.pth", is_latest=False)


CHANGES = {
    "freezes": lambda model: model.net[0].requires_grad_(False),
    "freezes with its modes": lambda model: freeze_parameters(model, ["net.0", "net.1"]),
    "evaluates": lambda model: model.net[1:3].eval(),
    "unfreezes": lambda model: model.net[3].requires_grad_(True),
    "unfreezes with its modes": lambda model: unfreeze_parameters(model, "net.3"),
}


@pytest.mark.parametrize("file", ["epoch_2.pth", "within.pth"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_hook_changed_at_one_epoch_holds_after_a_resume_behind_it(name, file, tmp_path):
    """Parameters and modes, also from a checkpoint that was saved while the model evaluated."""

    def options(**hooks: Any) -> dict[str, Any]:
        model = ToyModel()
        if "unfreezes" in name:
            freeze_parameters(model, "net.3")
        return {"model": model, "hooks": {"once": Once(CHANGES[name]), **hooks}}

    straight = runner_of(tmp_path / "a", adamw_of_all, **options(within=SavesWithin()))
    straight.train()
    path = tmp_path / "a" / file
    resumed = runner_of(tmp_path / "b", adamw_of_all, resume=str(path), **options())
    resumed.train()
    assert torch.equal(flat(straight.model), flat(resumed.model))
    assert all(torch.equal(a, b) for a, b in zip(straight.model.buffers(), resumed.model.buffers()))
    assert [p.requires_grad for p in straight.model.parameters()] == [
        p.requires_grad for p in resumed.model.parameters()
    ]
    for runner in (straight, resumed):  # and stays so
        runner.model.train()
    assert [m.training for m in straight.model.modules()] == [m.training for m in resumed.model.modules()]
    assert "as in the checkpoint, after a change by a hook" in next((tmp_path / "b").glob("*/*.log")).read_text()


@pytest.mark.parametrize("change", [CHANGES["freezes"], CHANGES["freezes with its modes"], CHANGES["evaluates"]])
def test_what_a_hook_froze_again_stays_frozen_after_a_resume(change, tmp_path):
    def options() -> dict[str, Any]:
        hooks = {"unfreeze": UnfreezeHook(1, ["net.0", "net.1"]), "once": Once(change, 2)}
        return {"hooks": hooks, "model_setup": ModelSetup(freeze=["net.0", "net.1"]), "length": (5,)}

    straight = runner_of(tmp_path / "a", adamw_of_all, **options())
    straight.train()
    for epoch in range(1, 5):
        path = str(tmp_path / "a" / f"epoch_{epoch}.pth")
        resumed = runner_of(tmp_path / str(epoch), adamw_of_all, resume=path, **options())
        resumed.train()
        assert torch.equal(flat(straight.model), flat(resumed.model)), epoch
        assert all(torch.equal(a, b) for a, b in zip(straight.model.buffers(), resumed.model.buffers()))


def adamw_of_all(model: nn.Module) -> OptimWrapper:
    return OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))


def test_what_is_built_otherwise_now_holds(tmp_path):
    runner = runner_of(tmp_path, adamw_of_all, hooks={"once": Once(CHANGES["freezes"])})
    runner.train()
    options: dict[str, Any] = {"model_setup": ModelSetup(freeze=["net.0.bias"]), "length": (5,)}
    resumed = runner_of(tmp_path, adamw_of_all, resume=True, **options)
    resumed.train()
    trains = {name: p.requires_grad for name, p in resumed.model.named_parameters()}
    assert [name for name, value in trains.items() if not value] == ["net.0.weight", "net.0.bias"]
    options["model_setup"] = ModelSetup()
    options["hooks"] = {"once": Once(lambda model: model.requires_grad_(True), 5)}
    again = runner_of(tmp_path, adamw_of_all, resume=True, **{**options, "length": (6,)})
    again.train()
    assert all(p.requires_grad for p in again.model.parameters())
