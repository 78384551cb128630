"""Schedulers of torch and transformers in a node that says their unit: stepped, saved, resumed, compared."""

import json
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from lazyengine.config import Lazy, instantiate
from lazyengine.config import LazyCall as L
from lazyengine.errors import UsageTypeError, UsageValueError
from lazyengine.optim import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearMomentum,
    LinearParamScheduler,
    OneCycleLR,
    OptimWrapper,
    OptimWrapperDict,
    ReduceOnPlateauLR,
    TorchScheduler,
    build_param_schedulers,
    param_schedulers_state_dict,
    resume_param_schedulers,
)

LENGTHS: Any = {"max_epochs": 5, "max_iters": 20, "epoch_length": 4}


def _lazy(target: Any, **arguments: Any) -> Any:
    """Return a recipe as a built config holds it."""

    class Holder:
        def __init__(self, part: Lazy[Any]) -> None:
            self.part = part

    return instantiate(L(Holder)(part=L(target)(**arguments))).part


def sgd(lr: float = 0.1) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": factor * lr} for factor in (1, 0.2)]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def halves(step: int) -> float:
    return 0.5**step


def sequence(optimizer: torch.optim.Optimizer, milestone: int) -> torchs.SequentialLR:
    parts = [torchs.ConstantLR(optimizer, 0.1, milestone), torchs.ExponentialLR(optimizer, 0.9)]
    return torchs.SequentialLR(optimizer, parts, [milestone])


CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (torchs.CosineAnnealingLR, {"T_max": 20}, {"T_max": 30}),
    (torchs.StepLR, {"step_size": 3}, {"step_size": 4, "gamma": 0.3}),
    (torchs.MultiStepLR, {"milestones": [2, 6]}, {"milestones": [3, 5, 9]}),
    (torchs.OneCycleLR, {"max_lr": 0.5, "total_steps": 30}, {"max_lr": 0.7, "total_steps": 30}),
    (torchs.LambdaLR, {"lr_lambda": halves}, {"lr_lambda": abs}),
    (sequence, {"milestone": 3}, {"milestone": 8}),
]


def advance(optimizer: Any, scheduler: TorchScheduler | Any, steps: int) -> list[list[float]]:
    curve = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        curve.append([group["lr"] for group in optimizer.param_groups])
    return curve


def on_disk(scheduler: TorchScheduler, tmp_path: Any) -> Any:
    path = tmp_path / "state.pth"
    torch.save(param_schedulers_state_dict([scheduler]), path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("make", "arguments", "changed"), CASES)
def test_its_values_are_those_of_the_bare_one_also_after_a_resume(make, arguments, changed, tmp_path):
    bare = sgd()
    expected = advance(bare, make(bare, **arguments), 16)
    optimizer = sgd()
    scheduler = TorchScheduler(optimizer, make, by="step", **arguments)
    assert advance(optimizer, scheduler, 7) == expected[:7]
    states, groups = on_disk(scheduler, tmp_path), optimizer.state_dict()

    resumed = sgd()
    chain = [TorchScheduler(resumed, make, by="step", **arguments)]
    resumed.load_state_dict(groups)
    assert resume_param_schedulers(chain, states) == []
    assert advance(resumed, chain[0], 9) == expected[7:]

    other = sgd()
    expected = advance(other, make(other, **changed), 16)
    resumed = sgd()
    chain = [TorchScheduler(resumed, make, by="step", **changed)]
    resumed.load_state_dict(groups)
    assert "arguments" in resume_param_schedulers(chain, states)[0]
    assert [group["lr"] for group in resumed.param_groups] == expected[6]
    assert advance(resumed, chain[0], 9) == expected[7:]


def test_another_initial_rate_moves_the_whole_schedule(tmp_path):
    optimizer = sgd()
    scheduler = TorchScheduler(optimizer, torchs.CosineAnnealingLR, by="step", T_max=20)
    advance(optimizer, scheduler, 5)
    resumed = OptimWrapper(sgd(0.2))
    chain = [TorchScheduler(resumed, torchs.CosineAnnealingLR, by="step", T_max=20)]
    assert "base_values" in resume_param_schedulers(chain, on_disk(scheduler, tmp_path))[0]
    other = sgd(0.2)
    expected = advance(other, torchs.CosineAnnealingLR(other, T_max=20), 5)[-1]
    assert resumed.get_lr()["lr"] == expected


def test_what_cannot_be_compared_stays_as_saved_and_is_named(tmp_path, capsys):
    optimizer = sgd()
    scheduler = TorchScheduler(optimizer, torchs.LambdaLR, by="step", lr_lambda=lambda step: 0.5**step)
    advance(optimizer, scheduler, 3)
    resumed = sgd()
    chain = [TorchScheduler(resumed, torchs.LambdaLR, by="step", lr_lambda=lambda step: 0.5**step)]
    resumed.load_state_dict(optimizer.state_dict())
    assert resume_param_schedulers(chain, on_disk(scheduler, tmp_path)) == []
    assert "lr_lambda cannot be compared" in "".join(capsys.readouterr())
    assert advance(resumed, chain[0], 2) == advance(optimizer, scheduler, 2)


def test_schedules_of_transformers():
    transformers = pytest.importorskip("transformers")
    make, arguments = transformers.get_cosine_schedule_with_warmup, {"num_warmup_steps": 3, "num_training_steps": 20}
    bare, optimizer = sgd(), sgd()
    expected = advance(bare, make(bare, **arguments), 12)
    scheduler = TorchScheduler(optimizer, make, by="step", **arguments)
    assert advance(optimizer, scheduler, 12) == expected
    assert json.loads(json.dumps(scheduler.state_dict()))["arguments"] == arguments


def test_a_recipe_gets_the_optimizer_and_a_bare_scheduler_is_refused_with_both_spellings():
    wrapper = OptimWrapper(sgd())
    built: Any
    (built,) = build_param_schedulers(
        [_lazy(TorchScheduler, make=torchs.StepLR, by="epoch", step_size=1)],
        wrapper,
        **LENGTHS,
    )
    assert (built.by_epoch, built.scheduler.optimizer) == (True, wrapper.optimizer)
    spellings = (
        r"write L\(TorchScheduler\)\(make=StepLR, by='epoch', ...\) or L\(TorchScheduler\)\(make=StepLR, by='step'"
    )
    with pytest.raises(UsageTypeError, match=spellings):
        build_param_schedulers([_lazy(torchs.StepLR, step_size=1)], wrapper, **LENGTHS)
    with pytest.raises(UsageTypeError, match=spellings):
        build_param_schedulers([torchs.StepLR(wrapper.optimizer, 1)], wrapper, **LENGTHS)
    with pytest.raises(UsageValueError, match="by must be 'epoch' or 'step', got 'iter'"):
        TorchScheduler(wrapper, torchs.StepLR, by="iter", step_size=1)  # type: ignore[arg-type]
    with pytest.raises(UsageTypeError, match="use ReduceOnPlateauLR"):
        TorchScheduler(wrapper, torchs.ReduceLROnPlateau, by="epoch")
    with pytest.raises(UsageValueError, match="by='epoch', but the run counts iterations"):
        build_param_schedulers(
            [_lazy(TorchScheduler, make=torchs.StepLR, by="epoch", step_size=1)],
            wrapper,
            **{**LENGTHS, "max_epochs": None},
        )


def adam(lr: float = 0.05, betas: tuple[float, float] = (0.9, 0.999)) -> OptimWrapper:
    return OptimWrapper(torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=lr, betas=betas))


def sgd_with_momentum(lr: float = 0.05, momentum: float = 0.9) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=lr, momentum=momentum))


def torchs_one_cycle(wrapper: OptimWrapper) -> Any:
    return TorchScheduler(wrapper, torchs.OneCycleLR, by="step", max_lr=0.2, total_steps=20)


def torchs_cycle(wrapper: OptimWrapper) -> Any:
    return TorchScheduler(wrapper, torchs.CyclicLR, by="step", base_lr=0.01, max_lr=0.2, step_size_up=5)


def one_cycle(wrapper: OptimWrapper) -> Any:
    return OneCycleLR(wrapper, eta_max=0.2, total_steps=20, by_epoch=False)


@pytest.mark.parametrize("build", [adam, sgd_with_momentum])
@pytest.mark.parametrize(
    ("schedule", "changes"),
    [
        (torchs_one_cycle, ["", "lr", "momentum"]),
        (torchs_cycle, ["", "lr", "momentum"]),
        (one_cycle, ["", "lr"]),
    ],
)
def test_what_a_schedule_sets_itself_is_no_change_of_the_user(build, schedule, changes, capsys):
    """A resume took the momentum that the new schedule began with, or the configured rate, for one step."""
    momentum = {"momentum": 0.5} if build is sgd_with_momentum else {"betas": (0.5, 0.999)}
    for change in changes:
        resumes_equal(build, schedule, {"": {}, "lr": {"lr": 0.02}, "momentum": momentum}[change])
        printed = capsys.readouterr()
        assert ("has no effect: a schedule has its own" in printed.out + printed.err) == bool(change)


def resumes_equal(build: Any, schedule: Any, changed: dict[str, Any]) -> None:
    wrapper = build()
    former = schedule(wrapper)
    for _ in range(7):
        former.step()
    state, positions = wrapper.state_dict(), [former.state_dict()]
    resumed = build(**changed)
    chain = [schedule(resumed)]
    resumed.load_state_dict(state)
    resume_param_schedulers(chain, positions)
    for _ in range(3):
        for option in ("lr", "momentum", "betas"):
            assert wrapper.param_groups[0].get(option) == resumed.param_groups[0].get(option)
        for each in (former, *chain):
            each.step()
    assert resumed.changes == []


def test_a_cycle_begins_at_its_own_rate():
    """Torch's CyclicLR began with the optimizer's rate, which the engine had written down as the initial one."""
    for build, warm_up in ((adam, False), (sgd_with_momentum, False), (sgd_with_momentum, True)):
        wrapper, plain = build(), build().optimizer
        schedules = [torchs_cycle(wrapper)]
        expected: Any = [torchs.CyclicLR(plain, base_lr=0.01, max_lr=0.2, step_size_up=5)]
        if warm_up:
            schedules.append(TorchScheduler(wrapper, torchs.LinearLR, by="step", start_factor=0.5, total_iters=3))
            expected.append(torchs.LinearLR(plain, start_factor=0.5, total_iters=3))
        for _ in range(12):
            assert wrapper.param_groups[0]["lr"] == pytest.approx(plain.param_groups[0]["lr"])
            plain.step()
            for each in (*schedules, *expected):
                each.step()


def cosine(wrapper: OptimWrapper) -> Any:
    return CosineAnnealingLR(wrapper, T_max=20, by_epoch=False)


def exponential(wrapper: OptimWrapper) -> Any:
    return ExponentialLR(wrapper, gamma=0.9, by_epoch=False)


def momentum(wrapper: OptimWrapper) -> Any:
    return LinearMomentum(wrapper, start_factor=0.5, end=10, by_epoch=False)


def decay(wrapper: OptimWrapper) -> Any:
    return LinearParamScheduler(wrapper, "weight_decay", start_factor=0.5, end=10, by_epoch=False)


@pytest.mark.parametrize("build", [adam, sgd_with_momentum])
@pytest.mark.parametrize(
    ("former", "now"),
    [
        ([cosine], []),
        ([torchs_one_cycle], []),
        ([one_cycle], []),
        ([cosine, momentum], [cosine]),
        ([cosine, momentum, decay], [exponential]),
        ([torchs_cycle], [cosine]),
        ([cosine], [cosine, momentum]),
        ([], [momentum, decay]),
        ([cosine], [torchs_one_cycle]),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_schedules_that_were_removed_or_added_are_as_from_the_start(build, former, now, several):
    """What a removed one had made of an option stayed; a new one of Adam's momentum failed as of a damaged file."""
    saved, fresh, resumed = build(), build(), build(lr=0.07)
    fresh.param_groups[0]["lr"] = 0.07
    fresh.set_as_built()
    pairs = ((saved, former), (fresh, now), (resumed, now))
    before, expected, chain = ([make(wrapper) for make in makes] for wrapper, makes in pairs)
    for _ in range(7):
        for each in (*before, *expected):
            each.step()
    resumed.load_state_dict(saved.state_dict())
    states: Any = param_schedulers_state_dict(before)
    joint = OptimWrapperDict(net=resumed) if several else resumed
    parts: Any = ({"net": chain}, {"net": states}) if several else (chain, states)
    assert resume_param_schedulers(*parts, num_optimizer_steps=7, num_iters=7, optim_wrapper=joint)
    for _ in range(3):
        for option in ("lr", "betas", "weight_decay"):
            assert resumed.param_groups[0].get(option) == fresh.param_groups[0].get(option)
        assert resumed.get_momentum() == fresh.get_momentum()
        for each in (*expected, *chain):
            each.step()


def test_a_built_schedule_by_epoch_is_refused_in_a_run_that_counts_iterations():
    """It was never stepped, but put onto its curve by a resume."""
    lengths: Any = {"max_epochs": None, "max_iters": 20, "epoch_length": 4}
    wrapper = sgd_with_momentum()
    for each in (
        ExponentialLR(wrapper, gamma=0.5),
        momentum_by_epoch(wrapper),
        TorchScheduler(wrapper, torchs.ExponentialLR, by="epoch", gamma=0.5),
    ):
        with pytest.raises(UsageValueError, match=r"counts epochs \(by_epoch=True\), but the run counts iterations"):
            build_param_schedulers([cosine(wrapper), each], wrapper, **lengths)
    plateau = ReduceOnPlateauLR(wrapper, monitor="loss", rule="less")  # which follows validations
    assert build_param_schedulers(plateau, wrapper, **lengths) == [plateau]


def momentum_by_epoch(wrapper: OptimWrapper) -> Any:
    return LinearMomentum(wrapper, start_factor=0.5, end=10)
